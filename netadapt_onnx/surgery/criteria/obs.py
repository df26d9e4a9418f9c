"""The criterion `obs`: which channels go by what the layers that read them lose, once these are solved anew.

From the Gram matrices that reconstruction solves with comes, for each group, one order in which its channels go and the
error of its consumers at every count (`elimination.py`). A group's consumers are all convolutions and matrix products
whose inputs carry its labels, whatever lies in between: those along a residual stream, the one behind a depthwise layer
or behind a Flatten. No labels and no gradients are needed.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from netadapt_onnx.common.progress import counting
from netadapt_onnx.graph.axis_arrays import Array
from netadapt_onnx.graph.nodes import reads
from netadapt_onnx.graph.runtime import Arrays
from netadapt_onnx.surgery.criteria.elimination import Elimination, System, eliminate
from netadapt_onnx.surgery.criteria.scores import Criterion, RememberedScores
from netadapt_onnx.surgery.criteria.weights import l2
from netadapt_onnx.surgery.groups import Group
from netadapt_onnx.surgery.reconstruct.bias import bias_target
from netadapt_onnx.surgery.reconstruct.gram import GramMatrices, gram_matrices, original_targets
from netadapt_onnx.surgery.reconstruct.layers import Linear, linear_layers
from netadapt_onnx.surgery.reconstruct.least_squares import RIDGE
from netadapt_onnx.surgery.trace import Trace

OBS = "obs"
# Inverses are kept for the other groups that a layer reads (a DenseNet's reads many) up to this.
MOST_KEPT_BYTES = 2**29


def obs_criterion(inputs: Callable[[], Arrays], seed: int = 0) -> Criterion:
    """The criterion `obs`.

    Args:
        inputs: Returns the inputs, samples first; it is called once a model, so that they need not stay in memory.
        seed: The seed of the positions at which layers are looked at.
    """
    return RememberedScores(OBS, lambda trace: _label_scores(trace, inputs(), seed), serves_cuts=True)


def _label_scores(trace: Trace, inputs: Arrays, seed: int) -> np.ndarray:
    matrices = gram_matrices(trace, inputs, original_targets(trace, inputs, seed))
    scores = np.zeros(len(trace.roots))
    for name, elimination in eliminations(trace, matrices).items():
        scores[trace.members[name]] = elimination.scores[elimination.class_of]
    return scores


def eliminations(trace: Trace, matrices: Mapping[str, GramMatrices]) -> dict[str, Elimination]:
    """In which order the channels of every prunable group go, and the error of its consumers at every count.

    Where no consumer of a group can be solved (those of queries and keys are no layers; some are too large, or share
    their weights with another layer) its channels go by their L2 norm, and the error is their share of the squared
    norm: from 0 to 1, as that of one consumer.

    Args:
        trace: The model.
        matrices: The Gram matrices of its layers' inputs.

    Returns:
        By prunable group its elimination.
    """
    consumers = _Consumers(trace, matrices)
    result = {}
    for group in counting("ordering channels", trace.prunable):
        classes, class_of = np.unique(trace.members[group.name], return_inverse=True)
        systems = [system for layer in consumers.of(group) for system in consumers.systems(layer, classes)]
        covered = np.zeros(len(classes), bool)
        for system in systems:
            covered[system.classes] = True
        if covered.all():
            order, added = eliminate(systems, len(classes))
        else:
            order, added = _by_norm(trace, group, class_of)
        errors = np.concatenate([[0.0], np.cumsum(added)])
        result[group.name] = Elimination(class_of, order, errors)
    return result


def _by_norm(trace: Trace, group: Group, class_of: Array) -> tuple[Array, np.ndarray]:
    """The classes in the order of their L2 norms, and the share of the group's squared norm that each has."""
    squares = np.bincount(class_of, weights=l2(trace, group) ** 2)
    order = np.argsort(squares, kind="stable")
    return order, squares[order] / (float(squares.sum()) or 1.0)


@dataclass(frozen=True)
class _Solvable:
    """A consumer as numbers, by conv group.

    Attributes:
        inverse: (H + ridge)^-1, (groups, inputs, inputs).
        weights: W / sqrt(tr(W^T H W)), (groups, inputs, outputs).
    """

    inverse: np.ndarray
    weights: np.ndarray


class _Consumers:
    """The layers that reconstruction can solve, by the groups whose channels they read."""

    def __init__(self, trace: Trace, matrices: Mapping[str, GramMatrices]) -> None:
        self._trace = trace
        self._matrices = matrices
        self._kept: dict[str, _Solvable] = {}
        self._kept_bytes = 0
        self._by_group: dict[str, list[Linear]] = {}
        names = [group.name for group in trace.prunable]
        group_of = np.full(len(trace.roots), -1)
        for number, name in enumerate(names):
            group_of[trace.members[name]] = number
        readers = Counter(name for node in trace.folded.proto.graph.node for name in reads(node))
        for layer in linear_layers(trace):
            if layer.output in matrices and readers[layer.weight] == 1:
                labels = np.concatenate(self._labels(layer) or [np.zeros(0, np.int64)])
                for number in np.unique(group_of[labels]).tolist():
                    if number >= 0:
                        self._by_group.setdefault(names[number], []).append(layer)

    def of(self, group: Group) -> list[Linear]:
        """The consumers of a group."""
        return self._by_group.get(group.name, [])

    def systems(self, layer: Linear, classes: Array) -> list[System]:
        """A system for each conv group of a layer that reads channels of these classes (root labels, ascending)."""
        labels = self._labels(layer)
        class_of = np.full(len(labels[0]), -1)
        for axis_labels in labels:
            index = np.minimum(np.searchsorted(classes, axis_labels), len(classes) - 1)
            class_of = np.where((class_of < 0) & (classes[index] == axis_labels), index, class_of)
        numbers = self._solvable(layer)
        if numbers is None:
            return []
        per_group = class_of.reshape(layer.groups, -1)
        features = layer.inputs_per_group // per_group.shape[1]
        parts = zip(per_group, numbers.inverse, numbers.weights, strict=True)
        return [_system(part, features, inverse, weights) for part, inverse, weights in parts if (part >= 0).any()]

    def _labels(self, layer: Linear) -> list[Array]:
        """The root labels of a layer's input channels, (channels,): one array for each factor that they carry."""
        axis = 1 if layer.op == "Conv" else len(self._trace.folded.shapes[layer.input]) - 1
        return [labels for k, labels in self._trace.axes.get(layer.input, ()) if k == axis]

    def _solvable(self, layer: Linear) -> _Solvable | None:
        if layer.output not in self._kept:
            numbers = self._invert(layer)
            size = 0 if numbers is None else numbers.inverse.nbytes
            if numbers is None or self._kept_bytes + size > MOST_KEPT_BYTES:
                return numbers
            self._kept[layer.output] = numbers
            self._kept_bytes += size
        return self._kept[layer.output]

    def _invert(self, layer: Linear) -> _Solvable | None:
        """A consumer as numbers; None where they are not finite, or all of its outputs are zero."""
        matrices = self._matrices[layer.output]
        weights = layer.matrix(self._trace.labels.value(layer.weight))
        gram = matrices.gram
        if layer.op == "MatMul" and bias_target(self._trace.folded.proto, layer) is None:
            gram = gram + matrices.mean_in[:, :, None] * matrices.mean_in[:, None, :]  # it is fitted through the origin
        inputs = gram.shape[1]
        ridge = RIDGE * np.trace(gram, axis1=1, axis2=2) / inputs + 1e-12
        gram = gram + ridge[:, None, None] * np.eye(inputs)
        size = float((weights * (gram @ weights)).sum())
        if not np.isfinite(size) or size <= 0:
            return None
        inverse = np.linalg.inv(gram)
        return _Solvable((inverse + inverse.transpose(0, 2, 1)) / 2, weights / np.sqrt(size))


def _system(class_of: Array, features: int, inverse: np.ndarray, weights: np.ndarray) -> System:
    """The system of the channels of one conv group that are of some class.

    Args:
        class_of: The class of each channel, or -1, (channels,).
        features: How many features a channel has.
        inverse: H^-1 of all features of the conv group.
        weights: W of the same.
    """
    by_class = np.argsort(class_of, kind="stable")[np.count_nonzero(class_of < 0) :]
    classes, starts, counts = np.unique(class_of[by_class], return_index=True, return_counts=True)
    # Classes may have channels in several conv groups, not equally many in each: what is missing is a feature that
    # no other depends on and that no output reads.
    channels = np.full((len(classes), int(counts.max())), -1)
    channels[np.repeat(np.arange(len(classes)), counts), np.arange(len(by_class)) - np.repeat(starts, counts)] = (
        by_class
    )
    rows = np.where(channels[:, :, None] < 0, -1, channels[:, :, None] * features + np.arange(features)).reshape(-1)
    own_inverse, own_weights = inverse[np.ix_(rows, rows)], weights[rows]
    missing = rows < 0
    own_inverse[missing], own_inverse[:, missing], own_weights[missing] = 0, 0, 0
    own_inverse[missing, missing] = 1
    return System(classes, own_inverse, own_weights)
