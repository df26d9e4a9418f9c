"""Sums over the slices of a weight: block by block, and of what quantised weights stand for."""

from __future__ import annotations

import numpy as np

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
    for node in trace.readers.get(layer.weight, []):
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
