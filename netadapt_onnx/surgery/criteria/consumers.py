"""The layers that reconstruction can solve, as numbers, by the groups whose channels they read."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from netadapt_onnx.graph.axis_arrays import Array
from netadapt_onnx.graph.nodes import reads
from netadapt_onnx.surgery.criteria.elimination import System
from netadapt_onnx.surgery.groups import Group
from netadapt_onnx.surgery.reconstruct.bias import bias_target
from netadapt_onnx.surgery.reconstruct.gram import GramMatrices
from netadapt_onnx.surgery.reconstruct.layers import Linear, linear_layers
from netadapt_onnx.surgery.reconstruct.ridge import RIDGE
from netadapt_onnx.surgery.trace import Trace

# Inverses are kept for the other groups that a layer reads (a DenseNet's reads many) up to this.
MOST_KEPT_BYTES = 2**29


@dataclass(frozen=True, eq=False)
class Consumer:
    """A layer that reads channels of a group, by conv group.

    Attributes:
        layer: The layer.
        class_of: The class of tied channels that each feature is of, -1 for those of other groups, (groups, inputs).
        inverse: H^-1, (groups, inputs, inputs).
        weights: W / sqrt(tr(W^T H W)), (groups, inputs, outputs).
    """

    layer: Linear
    class_of: Array
    inverse: np.ndarray
    weights: np.ndarray

    def systems(self) -> list[System]:
        """What elimination works on: a system for each conv group that reads any of the channels."""
        parts = zip(self.class_of, self.inverse, self.weights, strict=True)
        return [_system(*part) for part in parts if (part[0] >= 0).any()]

    def error(self, gone: Array, gram: np.ndarray) -> float:
        """The squared error of the outputs without some classes, relative to their size.

        Args:
            gone: The classes that are gone; all that is left has been solved with this consumer's own H.
            gram: The H of the inputs that the error is measured on, (groups, inputs, inputs).
        """
        lost, size = 0.0, 0.0
        for class_of, inverse, weights, own in zip(self.class_of, self.inverse, self.weights, gram, strict=True):
            rows = np.flatnonzero(np.isin(class_of, gone))
            gap = inverse[:, rows] @ np.linalg.solve(inverse[np.ix_(rows, rows)], weights[rows])
            lost += float((gap * (own @ gap)).sum())
            size += float((weights * (own @ weights)).sum())
        return lost / size if size > 0 else 0.0


class Consumers:
    """The consumers of every group of a model."""

    def __init__(self, trace: Trace, matrices: Mapping[str, GramMatrices]) -> None:
        """Find those that have matrices and weights of their own."""
        self._trace = trace
        self._matrices = matrices
        self._kept: dict[str, tuple[np.ndarray, np.ndarray]] = {}
        self._kept_bytes = 0
        self._by_group: dict[str, list[Linear]] = {}
        names = [group.name for group in trace.prunable]
        group_of = np.full(len(trace.roots), -1)
        for number, name in enumerate(names):
            group_of[trace.members[name]] = number
        readers = Counter(name for node in trace.folded.proto.graph.node for name in reads(node))
        for layer in linear_layers(trace):
            if layer.output in matrices and readers[layer.weight] == 1:
                labels = np.concatenate([np.zeros(0, np.int64), *self._labels(layer)])
                for number in np.unique(group_of[labels]).tolist():
                    if number >= 0:
                        self._by_group.setdefault(names[number], []).append(layer)

    def of(self, group: Group) -> list[Consumer]:
        """The consumers of a group; its classes are numbered in the order of their root labels."""
        classes = np.unique(self._trace.members[group.name])
        consumers = []
        for layer in self._by_group.get(group.name, []):
            numbers = self._inverse_and_weights(layer)
            if numbers is not None:
                consumers.append(Consumer(layer, self._class_of(layer, classes), *numbers))
        return consumers

    def gram(self, layer: Linear, matrices: GramMatrices) -> np.ndarray:
        """What the squared error of a layer's outputs is a quadratic form of, (groups, inputs, inputs)."""
        if layer.op == "MatMul" and bias_target(self._trace.folded.proto, layer) is None:
            # There is nowhere to put a bias: it is fitted through the origin.
            means = matrices.mean_in
            return np.asarray(matrices.gram + means[:, :, None] * means[:, None, :])
        return matrices.gram

    def _labels(self, layer: Linear) -> list[Array]:
        """The root labels of a layer's input channels, (channels,): one array for each factor that they carry."""
        axis = 1 if layer.op == "Conv" else len(self._trace.folded.shapes[layer.input]) - 1
        return [labels for k, labels in self._trace.axes.get(layer.input, ()) if k == axis]

    def _class_of(self, layer: Linear, classes: Array) -> Array:
        """The number of the class, of those with these root labels, that each feature is of, (groups, inputs)."""
        labels = self._labels(layer)
        class_of = np.full(len(labels[0]), -1)
        for axis_labels in labels:
            index = np.minimum(np.searchsorted(classes, axis_labels), len(classes) - 1)
            class_of = np.where((class_of < 0) & (classes[index] == axis_labels), index, class_of)
        by_group = class_of.reshape(layer.groups, -1)
        return np.repeat(by_group, layer.inputs_per_group // by_group.shape[1], axis=1)

    def _inverse_and_weights(self, layer: Linear) -> tuple[np.ndarray, np.ndarray] | None:
        if layer.output not in self._kept:
            numbers = self._invert(layer)
            if numbers is None or self._kept_bytes + numbers[0].nbytes > MOST_KEPT_BYTES:
                return numbers
            self._kept[layer.output] = numbers
            self._kept_bytes += numbers[0].nbytes
        return self._kept[layer.output]

    def _invert(self, layer: Linear) -> tuple[np.ndarray, np.ndarray] | None:
        """H^-1 and W of a layer; None where they are not finite, or all of its outputs are zero."""
        weights = layer.matrix(self._trace.labels.value(layer.weight))
        gram = self.gram(layer, self._matrices[layer.output])
        inputs = gram.shape[1]
        ridge = RIDGE * np.trace(gram, axis1=1, axis2=2) / inputs + 1e-12
        gram = gram + ridge[:, None, None] * np.eye(inputs)
        size = float((weights * (gram @ weights)).sum())
        if not np.isfinite(size) or size <= 0:
            return None
        inverse = np.linalg.inv(gram)
        return (inverse + inverse.transpose(0, 2, 1)) / 2, weights / np.sqrt(size)


def _system(class_of: Array, inverse: np.ndarray, weights: np.ndarray) -> System:
    """The system of the features of one conv group that are of some class.

    Classes may have features in several conv groups, not equally many in each: what is missing is a feature that no
    other depends on and that no output reads.
    """
    by_class = np.argsort(class_of, kind="stable")[np.count_nonzero(class_of < 0) :]
    classes, starts, counts = np.unique(class_of[by_class], return_index=True, return_counts=True)
    features = np.full((len(classes), int(counts.max())), -1)
    places = np.arange(len(by_class)) - np.repeat(starts, counts)
    features[np.repeat(np.arange(len(classes)), counts), places] = by_class
    rows = features.reshape(-1)
    own_inverse, own_weights = inverse[np.ix_(rows, rows)], weights[rows]
    missing = rows < 0
    own_inverse[missing], own_inverse[:, missing], own_weights[missing] = 0, 0, 0
    own_inverse[missing, missing] = 1
    return System(classes, own_inverse, own_weights)
