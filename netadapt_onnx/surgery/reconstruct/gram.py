"""Gram matrices of layers' inputs, and of these against what the original model put out there, for least squares.

Layers are seen at sampled positions (im2col), the same for every model with the same spatial sizes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from netadapt_onnx.graph.axis_arrays import Array
from netadapt_onnx.graph.runtime import Arrays
from netadapt_onnx.surgery.calibration import activations
from netadapt_onnx.surgery.reconstruct.layers import Linear, linear_layers
from netadapt_onnx.surgery.trace import Trace

# ResNet-20, half of the inner filters, all images together: 8192 positions leave 78.1% right, 32768 79.5%.
SAMPLES = 32768
# Targets take at most this much: fewer positions of a network with many channels, which has more of them.
MOST_TARGET_BYTES = 2**29
# Beyond this many inputs per conv group a solve costs seconds: such a layer keeps its sliced weights.
LARGEST_SYSTEM = 8192


@dataclass(frozen=True)
class Targets:
    """What each layer of the original puts out, which reconstruction aims at.

    Here and in all of reconstruction a layer goes by the tensor that it puts out: names of nodes need not differ, and
    their numbers are another graph's.

    Attributes:
        seed: The seed of the sampled positions.
        per_image: How many positions of each image are sampled.
        outputs: By layer its outputs there, (samples, channels).
    """

    seed: int
    per_image: int
    outputs: Mapping[str, np.ndarray]


@dataclass(frozen=True)
class GramMatrices:
    """Centred Gram matrices of one layer with inputs X and targets Y, by conv group, in float64.

    Attributes:
        gram: X^T X / samples, (groups, inputs, inputs).
        cross: X^T Y / samples, (groups, inputs, outputs).
        mean_in: The mean of X, (groups, inputs).
        mean_out: The mean of Y, (groups, outputs).
    """

    gram: np.ndarray
    cross: np.ndarray
    mean_in: np.ndarray
    mean_out: np.ndarray


def original_targets(trace: Trace, inputs: Arrays, seed: int = 0, samples: int = SAMPLES) -> Targets:
    """Run the original model on calibration inputs and keep what its layers put out.

    Args:
        trace: The original model.
        inputs: The calibration inputs, images first.
        seed: The seed of the sampled positions.
        samples: How many positions of each layer, of all images together.
    """
    parts: dict[str, list[np.ndarray]] = {}
    layers = linear_layers(trace)
    per_image = _per_image(trace, layers, len(next(iter(inputs.values()))), samples)
    for batch, arrays in activations(trace, inputs, [layer.output for layer in layers]):
        for layer in layers:
            positions = layer.positions(seed, batch, per_image)
            parts.setdefault(layer.output, []).append(layer.outputs_at(arrays[layer.output], positions))
    return Targets(seed, per_image, {name: np.concatenate(rows) for name, rows in parts.items()})


def gram_matrices(
    trace: Trace, inputs: Arrays, targets: Targets, kept_outputs: Mapping[str, Array] | None = None
) -> dict[str, GramMatrices]:
    """Gram matrices of each layer's current inputs, and of these against the original's outputs.

    Args:
        trace: The model as it is now.
        inputs: The calibration inputs that `targets` were made with.
        targets: What the original's layers put out.
        kept_outputs: By layer which of the original's output channels it still has; all where it is left out.

    Returns:
        The matrices by layer, for those whose inputs a cut may take.
    """
    kept_outputs = kept_outputs or {}
    layers = [layer for layer in linear_layers(trace) if layer.inputs_per_group <= LARGEST_SYSTEM]
    layers = [layer for layer in layers if trace.axes.get(layer.input) and layer.output in targets.outputs]
    sums: dict[str, GramSums] = {}
    seen = dict.fromkeys((layer.output for layer in layers), 0)
    for batch, arrays in activations(trace, inputs, [layer.input for layer in layers]):
        for layer in layers:
            positions = layer.positions(targets.seed, batch, targets.per_image)
            x = layer.inputs_at(arrays[layer.input], positions)
            y = targets.outputs[layer.output][seen[layer.output] : seen[layer.output] + x.shape[1]]
            seen[layer.output] += x.shape[1]
            if layer.output in kept_outputs:
                y = y[:, kept_outputs[layer.output]]
            if layer.output not in sums:
                sums[layer.output] = GramSums(layer.groups, layer.inputs_per_group, y.shape[1] // layer.groups)
            sums[layer.output].add(x, y)
    return {name: layer_sums.matrices() for name, layer_sums in sums.items()}


class GramSums:
    """Accumulates Gram matrices; products in float32 per batch, their sum in float64.

    Both sides are taken relative to the mean of the first batch: of large values that hardly move (pooled maps behind a
    ReLU) float32 would keep nothing of the movement, and what is solved would depend on how images are batched.
    """

    def __init__(self, groups: int, inputs: int, outputs: int) -> None:
        self._gram = np.zeros((groups, inputs, inputs))
        self._cross = np.zeros((groups, inputs, outputs))
        self._in = np.zeros((groups, inputs))
        self._out = np.zeros((groups, outputs))
        self._origin: tuple[np.ndarray, np.ndarray] | None = None
        self._count = 0

    def add(self, x: np.ndarray, y: np.ndarray) -> None:
        """Add rows x (groups, samples, inputs) and y (samples, groups * outputs)."""
        groups = x.shape[0]
        y = np.moveaxis(y.reshape(len(y), groups, -1), 1, 0)
        x, y = (v.astype(np.result_type(v, np.float32), copy=False) for v in (x, y))  # float16 products overflow
        if self._origin is None:
            self._origin = x.mean(axis=1, keepdims=True), y.mean(axis=1, keepdims=True)
        x, y = x - self._origin[0], y - self._origin[1]
        self._gram += x.transpose(0, 2, 1) @ x
        self._cross += x.transpose(0, 2, 1) @ y
        self._in += x.sum(axis=1, dtype=np.float64)
        self._out += y.sum(axis=1, dtype=np.float64)
        self._count += x.shape[1]

    def matrices(self) -> GramMatrices:
        """The matrices of all rows added."""
        mean_in, mean_out = self._in / self._count, self._out / self._count
        gram = self._gram / self._count - mean_in[:, :, None] * mean_in[:, None, :]
        cross = self._cross / self._count - mean_in[:, :, None] * mean_out[:, None, :]
        if self._origin is not None:
            mean_in, mean_out = (m + at[:, 0] for m, at in zip((mean_in, mean_out), self._origin, strict=True))
        return GramMatrices(gram, cross, mean_in, mean_out)


def _per_image(trace: Trace, layers: list[Linear], images: int, samples: int) -> int:
    """Sampled positions per image, so that all images together give about as many as wanted, or what fits."""
    bytes_of = 4 * sum(trace.flat.shapes[layer.output][layer.channel_axis] for layer in layers)
    return max(1, min(samples, MOST_TARGET_BYTES // max(1, bytes_of)) // images)
