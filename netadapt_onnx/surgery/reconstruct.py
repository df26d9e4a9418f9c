"""Ridge least squares: after channels went, solve each consumer's remaining weights so that its output stays.

The target is the layer's own output in the *original* model, the inputs are the current model's activations, sampled
at random positions (im2col). Gram matrices are accumulated once per model; every cut of it then solves with their
kept rows and columns, which makes proposals cheap. For a group whose consumers follow one another (a residual stream)
the later ones see inputs from before the cut: an approximation that the next round's moments correct.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import onnx
from onnx import numpy_helper

from netadapt_onnx.runtime import Arrays
from netadapt_onnx.surgery.activations import activations
from netadapt_onnx.surgery.intercept import add_intercept, sink
from netadapt_onnx.surgery.linear import linear_layers
from netadapt_onnx.surgery.resize import Cut, resize
from netadapt_onnx.surgery.ties import Array
from netadapt_onnx.surgery.trace import KeptIndices, Trace

SAMPLES = 8192
RIDGE = 1e-3
# Beyond this many inputs per conv group a solve costs seconds: such a layer keeps its sliced weights.
LARGEST_SYSTEM = 8192


@dataclass(frozen=True)
class Targets:
    """Outputs (samples, channels) of each layer of the original model at sampled positions of `seed`."""

    seed: int
    outputs: Mapping[str, np.ndarray]


@dataclass(frozen=True)
class Moments:
    """Centred second moments of one layer: per conv group inputs (g, k, k) and inputs against targets (g, k, o).

    `mean_in` is (g, k), `mean_out` (g, o); all float64.
    """

    gram: np.ndarray
    cross: np.ndarray
    mean_in: np.ndarray
    mean_out: np.ndarray


def original_targets(trace: Trace, inputs: Arrays, seed: int = 0) -> Targets:
    """Run the original model on calibration inputs (images first) and keep what its layers put out."""
    parts: dict[str, list[np.ndarray]] = {}
    layers = linear_layers(trace)
    for batch, arrays in activations(trace, inputs, [layer.output for layer in layers]):
        for layer in layers:
            positions = layer.positions(seed, batch, _per_image(inputs))
            parts.setdefault(layer.name, []).append(layer.outputs_at(arrays[layer.output], positions))
    return Targets(seed, {name: np.concatenate(found) for name, found in parts.items()})


def moments(
    trace: Trace, inputs: Arrays, targets: Targets, kept_outputs: Mapping[str, Array] | None = None
) -> dict[str, Moments]:
    """Second moments of each layer's current inputs against the original's outputs, on the same calibration inputs.

    `kept_outputs[layer]` says which of the original's output channels the current layer still has (default: all).
    """
    kept_outputs = kept_outputs or {}
    layers = [layer for layer in linear_layers(trace) if layer.inputs_per_group <= LARGEST_SYSTEM]
    layers = [layer for layer in layers if trace.axes.get(layer.input) and layer.name in targets.outputs]
    sums: dict[str, _Sums] = {}
    seen = dict.fromkeys((layer.name for layer in layers), 0)
    for batch, arrays in activations(trace, inputs, [layer.input for layer in layers]):
        for layer in layers:
            positions = layer.positions(targets.seed, batch, _per_image(inputs))
            x = layer.inputs_at(arrays[layer.input], positions)
            y = targets.outputs[layer.name][seen[layer.name] : seen[layer.name] + x.shape[1]]
            seen[layer.name] += x.shape[1]
            if layer.name in kept_outputs:
                y = y[:, kept_outputs[layer.name]]
            if layer.name not in sums:
                sums[layer.name] = _Sums(layer.groups, layer.inputs_per_group, y.shape[1] // layer.groups)
            sums[layer.name].add(x, y)
    return {name: found.moments() for name, found in sums.items()}


class _Sums:
    """Accumulates moments; products in float32 per batch, their sum in float64."""

    def __init__(self, groups: int, inputs: int, outputs: int) -> None:
        self._gram = np.zeros((groups, inputs, inputs))
        self._cross = np.zeros((groups, inputs, outputs))
        self._in = np.zeros((groups, inputs))
        self._out = np.zeros((groups, outputs))
        self._count = 0

    def add(self, x: np.ndarray, y: np.ndarray) -> None:
        """x (groups, samples, inputs), y (samples, groups * outputs)."""
        groups = x.shape[0]
        y = np.moveaxis(y.reshape(len(y), groups, -1), 1, 0)
        x, y = (v.astype(np.result_type(v, np.float32), copy=False) for v in (x, y))  # float16 products overflow
        self._gram += x.transpose(0, 2, 1) @ x
        self._cross += x.transpose(0, 2, 1) @ y
        self._in += x.sum(axis=1, dtype=np.float64)
        self._out += y.sum(axis=1, dtype=np.float64)
        self._count += x.shape[1]

    def moments(self) -> Moments:
        mean_in, mean_out = self._in / self._count, self._out / self._count
        gram = self._gram / self._count - mean_in[:, :, None] * mean_in[:, None, :]
        cross = self._cross / self._count - mean_in[:, :, None] * mean_out[:, None, :]
        return Moments(gram, cross, mean_in, mean_out)


def reconstruct(trace: Trace, keep: KeptIndices, found: Mapping[str, Moments]) -> onnx.ModelProto:
    """Cut the model and solve every layer that lost inputs: min |X W + b - Y|^2 + lambda |W - W0|^2 per conv group.

    W0 are the sliced weights, lambda is 1e-3 of the Gram matrix's mean diagonal, the intercept b is not penalised and
    goes where it costs nothing (`intercept.py`). Layers without moments keep their sliced weights.
    """
    cut = Cut(trace, keep)
    model = resize(trace, keep)
    initializers = {t.name: t for t in model.graph.initializer}
    for layer in linear_layers(trace):
        if layer.name not in found or not layer.loses_inputs(cut) or not layer.owns_weight(model):
            continue
        statistics = found[layer.name]
        features, outputs = layer.kept_features(cut), cut.kept(layer.output, layer.channel_axis)
        start = layer.matrix(numpy_helper.to_array(initializers[layer.weight]))
        place = sink(model, layer)
        weights, bias = [], []
        for group in range(start.shape[0]):
            f = features[group]
            o = outputs.reshape(layer.groups, -1)[group]
            if not f.any() or not o.any():
                continue
            gram, cross = statistics.gram[group][np.ix_(f, f)], statistics.cross[group][np.ix_(f, o)]
            mean_in, mean_out = statistics.mean_in[group][f], statistics.mean_out[group][o]
            if place is None:  # nowhere to put an intercept: fit through the origin
                gram, cross = gram + np.outer(mean_in, mean_in), cross + np.outer(mean_in, mean_out)
            ridge = RIDGE * float(np.trace(gram)) / len(gram) + 1e-12
            solved = np.linalg.solve(gram + ridge * np.eye(len(gram)), cross + ridge * start[group])
            weights.append(solved)
            bias.append(mean_out - mean_in @ solved)
        if len(weights) < start.shape[0] or not all(np.isfinite(w).all() for w in weights):
            continue
        values = layer.from_matrix(np.stack(weights), tuple(initializers[layer.weight].dims))
        dtype = numpy_helper.to_array(initializers[layer.weight]).dtype
        initializers[layer.weight].CopyFrom(numpy_helper.from_array(values.astype(dtype), layer.weight))
        if place is not None:
            add_intercept(model, place, np.concatenate(bias))
    return model


def kept_outputs(trace: Trace, keep: KeptIndices, before: Mapping[str, Array] | None = None) -> dict[str, Array]:
    """For each layer, which output channels of the original a cut leaves; `before` is this for `trace` itself."""
    cut = Cut(trace, keep)
    before = before or {}
    result: dict[str, Array] = {}
    for layer in linear_layers(trace):
        kept = np.flatnonzero(cut.kept(layer.output, layer.channel_axis))
        result[layer.name] = before[layer.name][kept] if layer.name in before else kept
    return result


def _per_image(inputs: Arrays) -> int:
    """Sampled positions per image, so that all images together give about SAMPLES."""
    return max(1, SAMPLES // len(next(iter(inputs.values()))))
