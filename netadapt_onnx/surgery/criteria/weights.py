"""Criteria that look at weights alone: l2, l1, group-l2, fpgm, bn-scale, and two baselines."""

from __future__ import annotations

import zlib

import numpy as np

from netadapt_onnx.errors import NetadaptError
from netadapt_onnx.surgery.criteria.scores import ChannelScores, Criterion
from netadapt_onnx.surgery.groups import Group
from netadapt_onnx.surgery.records import Layer
from netadapt_onnx.surgery.rules.quantised import BY_DIRECTION
from netadapt_onnx.surgery.trace import Trace

# A weight of 400 MB in float64, and once more squared, would be the largest thing in memory.
BLOCK_ELEMENTS = 1 << 17
# Inputs with the scale and the zero point of the weight, by operator.
QUANTISED = {
    "QLinearConv": (4, 5),
    "QLinearMatMul": (4, 5),
    "QGemm": (4, 5),
    "MatMulIntegerToFloat": (3, 5),
    "DynamicQuantizeMatMul": (2, 3),
    "ConvInteger": (None, 3),
    "MatMulInteger": (None, 3),
    "DequantizeLinear": (1, 2),
    "QAttention": (4, 7),
    "QEmbedLayerNormalization": (8, 13),
    "DynamicQuantizeLSTM": (8, 9),
}


def layer_sums(trace: Trace, layer: Layer, power: int) -> np.ndarray:
    """Sum of |w|^power over the slice of each position along the axis that produces a layer's channels, (n,)."""
    values = trace.labels.value(layer.weight)
    if values.dtype.kind not in "iu":
        return slice_sums(values, layer.axis, power)
    scale, zero = _quantisation(trace, layer)
    if scale.ndim > 1:  # a matrix for each direction
        matrices = zip(values, scale, zero, strict=True)
        parts = [slice_sums(w, layer.axis - 1, power, z) * s**power for w, s, z in matrices]
        return np.asarray(np.sum(parts, axis=0))
    sums: np.ndarray = slice_sums(values, layer.axis, power, zero) * scale**power
    return sums


def slice_sums(values: np.ndarray, axis: int, power: int, zero: np.ndarray | float = 0.0) -> np.ndarray:
    """Sum of |w - zero|^power over all other axes, (n,); `zero` is one number or one for each position."""
    rows = np.moveaxis(values, axis, 0)
    zeros = np.broadcast_to(zero, len(rows))
    step = max(1, BLOCK_ELEMENTS // max(1, values.size // max(1, len(rows))))
    sums = np.zeros(len(rows))
    for start in range(0, len(rows), step):
        block = rows[start : start + step].astype(np.float64).reshape(len(zeros[start : start + step]), -1)
        block -= zeros[start : start + step, None]
        np.abs(block, out=block)
        if power == 2:
            np.square(block, out=block)
        elif power != 1:
            np.power(block, power, out=block)
        sums[start : start + step] = block.sum(axis=1)
    return sums


def _quantisation(trace: Trace, layer: Layer) -> tuple[np.ndarray, np.ndarray]:
    """Scale and zero point of a weight of integers: one number each, or one for each channel; by direction, if any."""
    for node in trace.labels.readers(layer.weight):
        if node.op_type not in QUANTISED:
            continue
        scale_and_zero = []
        for slot, default in zip(QUANTISED[node.op_type], (1.0, 0.0), strict=True):
            name = node.input[slot] if slot is not None and slot < len(node.input) else ""
            value = trace.labels.value(name) if trace.labels.is_constant(name) else np.array([default])
            rows = (len(value), -1) if node.op_type in BY_DIRECTION else (-1,)
            scale_and_zero.append(value.astype(np.float64).reshape(rows))
        return scale_and_zero[0], scale_and_zero[1]
    return np.ones(1), np.zeros(1)


def _summed_over_layers(trace: Trace, group: Group, power: int) -> np.ndarray:
    """Sum of |w|^power over the producers' slices of each channel, (channels,); channels tied together share it."""
    scores = ChannelScores(trace, group)
    for layer in trace.layers_of(group):
        scores.add(trace.roots[layer.axis_labels], layer_sums(trace, layer, power))
    return scores.by_channel


def l2(trace: Trace, group: Group) -> np.ndarray:
    """L2 norm over the producers' slices of a channel (NetAdapt, Yang et al., ECCV 2018)."""
    norms: np.ndarray = np.sqrt(_summed_over_layers(trace, group, 2))
    return norms


def l1(trace: Trace, group: Group) -> np.ndarray:
    """L1 norm over the producers' slices of a channel (Li et al., ICLR 2017)."""
    return _summed_over_layers(trace, group, 1)


def group_l2(trace: Trace, group: Group) -> np.ndarray:
    """L2 norm over all coupled slices of a channel, consumers included (Fang et al., CVPR 2023)."""
    scores = ChannelScores(trace, group)
    seen: set[tuple[str, int]] = set()
    for use, axis, axis_labels in trace.uses_of(group):
        values = trace.labels.value(use.constant)
        if (use.constant, axis) in seen or values.ndim < 2 or values.dtype.kind != "f":
            continue
        seen.add((use.constant, axis))
        blocks = use.blocks if axis == 1 else None
        if blocks is None:
            scores.add(axis_labels, slice_sums(values, axis, 2))
        else:
            parts = np.split(values, len(blocks))
            sums = np.stack([slice_sums(part, axis, 2) for part in parts])
            scores.add(trace.roots[blocks].reshape(-1), sums.reshape(-1))
    norms: np.ndarray = np.sqrt(scores.by_channel)
    return norms


def fpgm(trace: Trace, group: Group) -> np.ndarray:
    """Distance of a filter to all others of its layer: those near the geometric median go (He et al., CVPR 2019)."""
    scores = ChannelScores(trace, group)
    for layer in trace.layers_of(group):
        filters = np.moveaxis(trace.labels.value(layer.weight), layer.axis, 0).astype(np.float64)
        filters = filters.reshape(len(filters), -1)
        squares = (filters**2).sum(axis=1)
        distances = np.sqrt(np.maximum(squares[:, None] + squares[None] - 2 * filters @ filters.T, 0))
        scores.add(trace.roots[layer.axis_labels], distances.sum(axis=1))
    return scores.by_channel


def bn_scale(trace: Trace, group: Group) -> np.ndarray:
    """Magnitude of the BatchNorm scales of a channel (Liu et al., ICCV 2017). NetadaptError where there is none."""
    scores = ChannelScores(trace, group)
    nodes = trace.flat.proto.graph.node
    uses = trace.uses_of(group)
    scales = [u for u in uses if nodes[u[0].node].op_type == "BatchNormalization" and u[0].slot == 1]
    for use, _, axis_labels in scales:
        scores.add(axis_labels, np.abs(trace.labels.value(use.constant).astype(np.float64)))
    if not scales:
        raise NetadaptError(
            f"group '{group.name}' has no BatchNorm to take the scales of",
            hint="choose another criterion, or export the model with its BatchNorms, as the command export does",
            code="no-batchnorm",
        )
    return scores.by_channel


def first(trace: Trace, group: Group) -> np.ndarray:
    """The first channels stay: a criterion whose result is known beforehand."""
    return -np.arange(group.channels, dtype=np.float64)


def random(trace: Trace, group: Group) -> np.ndarray:
    """A fixed random order per group name: the baseline every other criterion must beat."""
    return np.random.default_rng(zlib.crc32(group.name.encode())).random(group.channels)


CRITERIA: dict[str, Criterion] = {
    "l2": l2,
    "l1": l1,
    "group-l2": group_l2,
    "fpgm": fpgm,
    "bn-scale": bn_scale,
    "random": random,
    "first": first,
}
