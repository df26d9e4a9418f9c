"""Pooling over windows and over all positions."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from netadapt_onnx.training.ops.padding import pad_spatial, spatial_pads
from netadapt_onnx.training.ops.registry import Node, op

_MAX = {1: F.max_pool1d, 2: F.max_pool2d, 3: F.max_pool3d}
_AVERAGE = {1: F.avg_pool1d, 2: F.avg_pool2d, 3: F.avg_pool3d}


def _window(node: Node, x: Tensor) -> tuple[list[int], list[int], list[int], list[int], list[int]]:
    """Kernel, strides, dilations, padding in front, padding behind (which covers what ceil_mode adds)."""
    kernel = list(node.attribute("kernel_shape"))
    axes = len(kernel)
    strides = list(node.attribute("strides") or [1] * axes)
    dilations = list(node.attribute("dilations") or [1] * axes)
    begin, end = spatial_pads(node, x.shape[2:], kernel, strides, dilations)
    return kernel, strides, dilations, begin, end


def _ceil_extra(
    node: Node, sizes: Sequence[int], kernel: Sequence[int], strides: Sequence[int], dilations: Sequence[int],
    begin: Sequence[int], end: Sequence[int],
) -> list[int]:  # fmt: skip
    """Positions to add behind so that floor division gives ceil_mode's output size (windows start inside the input)."""
    if not node.attribute("ceil_mode", 0):
        return [0] * len(kernel)
    extra = []
    for size, window, stride, dilation, front, back in zip(sizes, kernel, strides, dilations, begin, end, strict=True):
        room = size + front + back - (dilation * (window - 1) + 1)
        steps = -(-room // stride)
        if steps * stride >= size + front:
            steps -= 1
        extra.append(max(0, steps * stride - room))
    return extra


@op("MaxPool")
def max_pool(node: Node, x: Tensor) -> Tensor | tuple[Tensor, ...]:
    """Shapes: x (N, C, *spatial); y (N, C, *spatial')."""
    if len(node.outputs) > 1 and node.outputs[1]:
        raise node.refuse("with indices")
    kernel, strides, dilations, begin, end = _window(node, x)
    extra = _ceil_extra(node, x.shape[2:], kernel, strides, dilations, begin, end)
    end = [e + m for e, m in zip(end, extra, strict=True)]
    if begin != end or any(2 * p > k for p, k in zip(begin, kernel, strict=True)):
        x, begin = pad_spatial(x, begin, end, float("-inf")), [0] * len(kernel)
    y: Tensor = _MAX[len(kernel)](x, kernel, strides, begin, dilations)
    return y


@op("AveragePool")
def average_pool(node: Node, x: Tensor) -> Tensor:
    """Shapes: x (N, C, *spatial); y (N, C, *spatial'). Padding counts only with count_include_pad."""
    kernel, strides, dilations, begin, end = _window(node, x)
    if any(d != 1 for d in dilations):
        raise node.refuse("with dilations")
    extra = _ceil_extra(node, x.shape[2:], kernel, strides, dilations, begin, end)
    counted = bool(node.attribute("count_include_pad", 0))
    pool = _AVERAGE[len(kernel)]
    if not any(begin) and not any(end) and not any(extra):
        y: Tensor = pool(x, kernel, strides)
        return y
    if counted and begin == end and not any(extra) and all(2 * p <= k for p, k in zip(begin, kernel, strict=True)):
        y = pool(x, kernel, strides, begin)
    else:
        y = _average_padded(x, kernel, strides, begin, end, extra, counted)
    return y


def _average_padded(
    x: Tensor, kernel: list[int], strides: list[int], begin: list[int], end: list[int], extra: list[int], counted: bool
) -> Tensor:
    """Average over windows that reach beyond the input: the padded sum, divided by what counts of each window."""
    pool = _AVERAGE[len(kernel)]
    ones = x.new_ones((1, 1, *x.shape[2:]))
    if counted:
        ones = pad_spatial(ones, begin, end, 1.0)
        ones = pad_spatial(ones, [0] * len(extra), extra)
    else:
        ones = pad_spatial(ones, begin, [e + m for e, m in zip(end, extra, strict=True)])
    x = pad_spatial(x, begin, [e + m for e, m in zip(end, extra, strict=True)])
    averaged: Tensor = pool(x, kernel, strides) / pool(ones, kernel, strides)
    return averaged


@op("GlobalAveragePool")
def global_average_pool(node: Node, x: Tensor) -> Tensor:
    """Shapes: x (N, C, *spatial); y (N, C, 1, ...)."""
    return x.mean(dim=tuple(range(2, x.dim())), keepdim=True)


@op("GlobalMaxPool")
def global_max_pool(node: Node, x: Tensor) -> Tensor:
    """Shapes: x (N, C, *spatial); y (N, C, 1, ...)."""
    return x.amax(dim=tuple(range(2, x.dim())), keepdim=True)


@op("GlobalLpPool")
def global_lp_pool(node: Node, x: Tensor) -> Tensor:
    """Shapes: x (N, C, *spatial); y (N, C, 1, ...)."""
    norm: Tensor = torch.linalg.vector_norm(x, node.attribute("p", 2), dim=tuple(range(2, x.dim())), keepdim=True)
    return norm


@op("LpPool")
def lp_pool(node: Node, x: Tensor) -> Tensor:
    """Shapes: x (N, C, *spatial); y (N, C, *spatial')."""
    kernel, strides, dilations, begin, end = _window(node, x)
    if any(d != 1 for d in dilations) or node.attribute("ceil_mode", 0):
        raise node.refuse("with dilations or ceil_mode")
    p, volume = float(node.attribute("p", 2)), 1
    for size in kernel:
        volume *= size
    powered = pad_spatial(x.abs().pow(p), begin, end)
    y: Tensor = (_AVERAGE[len(kernel)](powered, kernel, strides) * volume).pow(1 / p)
    return y
