"""Layers as linear maps: their inputs and outputs as rows of numbers at sampled positions."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from math import prod

import numpy as np
import onnx
from numpy.typing import NDArray

from netadapt_onnx.graph.axis_arrays import Array
from netadapt_onnx.graph.nodes import reads
from netadapt_onnx.graph.shapes import Shape
from netadapt_onnx.surgery.cut import Cut
from netadapt_onnx.surgery.node import Node
from netadapt_onnx.surgery.trace import Trace


@dataclass(frozen=True)
class Linear:
    """A Conv, Gemm or MatMul with constant weights.

    As a matrix its weights are (groups, inputs per group, outputs per group); the inputs of a Conv are (channel,
    kernel...) in that order.
    """

    op: str
    input: str
    output: str
    weight: str
    transposed: bool
    groups: int
    inputs_per_group: int
    channel_axis: int
    kernel: tuple[int, ...]
    strides: tuple[int, ...]
    dilations: tuple[int, ...]
    pads: tuple[int, ...]
    spatial_out: tuple[int, ...]

    def positions(self, seed: int, block: int, per_image: int) -> Array:
        """Sampled output positions of one block of inputs, flat.

        The same for every layer with these spatial sizes, whatever it is called: exporters number nodes.
        """
        return _drawn_positions(prod(self.spatial_out), seed, block, per_image)

    def outputs_at(self, y: np.ndarray, positions: Array, columns: np.ndarray) -> None:
        """Write an output tensor at the sampled positions, a row for each channel: columns (channels, samples)."""
        if self.op == "Conv":
            values = y.reshape(*y.shape[:2], -1).take(positions, axis=2)
            columns.reshape(values.shape[1], len(y), -1)[:] = values.transpose(1, 0, 2)
        else:
            _write_tokens(y, positions, columns)

    def inputs_at(self, x: np.ndarray, positions: Array, columns: np.ndarray) -> None:
        """Write an input tensor at the sampled positions, a row for each input: columns (groups * inputs, samples).

        This is im2col of the sampled positions alone; nothing else of a map is copied, nor padded.
        """
        if self.op != "Conv":
            _write_tokens(x, positions, columns)
            return
        taps, outside = self._taps(x.shape[2:], positions)
        values = x.reshape(*x.shape[:2], -1).take(taps, axis=2)  # (samples, channels, taps, positions)
        if outside.any():
            values[:, :, outside] = 0
        columns.reshape(*values.shape[1:3], len(x), -1)[:] = values.transpose(1, 2, 0, 3)

    def _taps(self, sizes: Shape, positions: Array) -> tuple[Array, NDArray[np.bool_]]:
        """What each tap of the kernel reads at the positions, flat, and whether that is padding: (taps, positions)."""
        flat = np.zeros((1, len(positions)), np.int64)
        outside = np.zeros((1, len(positions)), np.bool_)
        for k, coordinates in enumerate(np.unravel_index(positions, self.spatial_out)):
            taps = np.arange(self.kernel[k])[:, None] * self.dilations[k] - self.pads[k]
            at = coordinates * self.strides[k] + taps
            flat = (flat[:, None] * sizes[k] + at).reshape(-1, len(positions))
            outside = (outside[:, None] | (at < 0) | (at >= sizes[k])).reshape(-1, len(positions))
        return np.where(outside, 0, flat), outside

    def matrix(self, weight: np.ndarray) -> np.ndarray:
        """Weights as they are stored, as a matrix (groups, inputs per group, outputs per group) in float64."""
        if self.op == "Conv":
            return weight.reshape(self.groups, weight.shape[0] // self.groups, -1).transpose(0, 2, 1).astype(np.float64)
        return (weight.T if self.transposed else weight)[None].astype(np.float64)

    def from_matrix(self, matrix: np.ndarray, shape: Shape) -> np.ndarray:
        """The inverse of `matrix`."""
        if self.op == "Conv":
            return np.ascontiguousarray(matrix.transpose(0, 2, 1)).reshape(shape)
        return np.ascontiguousarray(matrix[0].T if self.transposed else matrix[0])

    def _input_masks(self, cut: Cut) -> NDArray[np.bool_]:
        axis = 1 if self.op == "Conv" else len(cut.original_shape(self.input)) - 1
        return cut.kept(self.input, axis).reshape(self.groups, -1)

    def loses_inputs(self, cut: Cut) -> bool:
        """Whether a cut takes some, but in no conv group all, of the layer's inputs."""
        return not self._input_masks(cut).all() and self.keeps_every_group(cut)

    def keeps_every_group(self, cut: Cut) -> bool:
        """Whether every conv group keeps some of its inputs and of its outputs."""
        outputs = cut.kept(self.output, self.channel_axis).reshape(self.groups, -1)
        return bool(self._input_masks(cut).any(axis=1).all() and outputs.any(axis=1).all())

    def kept_features(self, cut: Cut) -> Array:
        """Mask (groups, inputs per group) of the inputs that a cut keeps."""
        taps = int(np.prod(self.kernel)) if self.op == "Conv" else 1
        return np.repeat(self._input_masks(cut), taps, axis=1)

    def owns_weight(self, model: onnx.ModelProto) -> bool:
        """Whether nothing else reads the weights (a copy may have been made under another name)."""
        readers = sum(self.weight in reads(node) for node in model.graph.node)
        return readers == 1 and any(t.name == self.weight for t in model.graph.initializer)


@lru_cache(maxsize=256)
def _drawn_positions(total: int, seed: int, block: int, per_image: int) -> Array:
    rng = np.random.default_rng([seed, block])
    return np.sort(rng.choice(total, min(per_image, total), replace=False))


def _write_tokens(values: np.ndarray, positions: Array, columns: np.ndarray) -> None:
    """Write what lies along the last axis of a tensor at the sampled positions of the axes between."""
    sampled = values.reshape(len(values), -1, values.shape[-1])[:, positions]
    columns.reshape(-1, *sampled.shape[:2])[:] = sampled.transpose(2, 0, 1)


def linear_layers(trace: Trace) -> list[Linear]:
    """The layers of a model that reconstruction can solve, in topological order."""
    layers = []
    for proto in trace.flat.proto.graph.node:
        if not trace.folded.shapes.keys() >= {name for name in proto.output if name}:
            continue  # inside a subgraph, where nothing can be observed
        layer = _linear(trace, proto)
        if layer is not None and _positions_stay(trace, layer):
            layers.append(layer)
    return layers


def _positions_stay(trace: Trace, layer: Linear) -> bool:
    """Whether a cut takes channels of a layer's input and output only; an MLP-Mixer's positions are channels too."""
    inputs = 1 if layer.op == "Conv" else len(trace.folded.shapes[layer.input]) - 1
    for name, channel_axis in ((layer.input, inputs), (layer.output, layer.channel_axis)):
        for axis, axis_labels in trace.axes.get(name, ()):
            if axis != channel_axis and not trace.pinned[axis_labels[axis_labels > 0]].all():
                return False
    return True


def _linear(trace: Trace, proto: onnx.NodeProto) -> Linear | None:
    node = Node(-1, proto, 1)  # its number is nobody's: what is solved is another graph
    shapes = trace.folded.shapes
    if node.domain or node.op not in ("Conv", "Gemm", "MatMul") or not trace.labels.is_constant(node.inputs[1]):
        return None
    if trace.labels.is_constant(node.inputs[0]):
        return None
    x, w, y = node.inputs[0], node.inputs[1], node.outputs[0]
    groups = node.integer("group", 1) if node.op == "Conv" else 1
    transposed = bool(node.integer("transB", 0))
    weight = w
    if trace.labels.is_view(w):
        weight, permuted = trace.labels.source(w)
        if not permuted or len(shapes[w]) != 2 or node.op == "Conv":
            return None
        transposed = not transposed
    if node.op != "Conv":
        if len(shapes[w]) != 2 or len(shapes[x]) < 2 or node.integer("transA", 0):
            return None
        if any(node.attributes.get(name, 1.0) != 1.0 for name in ("alpha", "beta")):
            return None
        inner = shapes[x][-1]
        rows = shapes[y][1:-1]
        return Linear(node.op, x, y, weight, transposed, 1, inner, len(shapes[y]) - 1, (), (), (), (), rows)
    kernel = shapes[w][2:]
    rank = len(kernel)
    if shapes[w][1] == 1 and groups > 1:
        return None  # depthwise: a channel's output depends on that channel alone
    strides = tuple(node.attributes.get("strides", [1] * rank))
    dilations = tuple(node.attributes.get("dilations", [1] * rank))
    pads = _pads(node, shapes[x][2:], shapes[y][2:], kernel, strides, dilations)
    inputs = shapes[w][1] * int(np.prod(kernel))
    return Linear(
        "Conv", x, y, weight, False, groups, inputs, 1, kernel, strides, dilations, pads,
        shapes[y][2:],
    )  # fmt: skip


def _pads(
    node: Node,
    before: Shape,
    after: Shape,
    kernel: tuple[int, ...],
    strides: tuple[int, ...],
    dilations: tuple[int, ...],
) -> tuple[int, ...]:
    """Explicit pads (begins, then ends); SAME_* from the sizes, as the ONNX operator specification defines them."""
    mode = node.text("auto_pad", "NOTSET")
    if not mode.startswith("SAME"):
        return tuple(node.attributes.get("pads", [0] * (2 * len(kernel))))
    total = [
        max(0, (out - 1) * s + (k - 1) * d + 1 - size)
        for size, out, k, s, d in zip(before, after, kernel, strides, dilations, strict=True)
    ]
    small, large = [t // 2 for t in total], [t - t // 2 for t in total]
    return tuple(small + large if mode == "SAME_UPPER" else large + small)
