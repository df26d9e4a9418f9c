"""Spatial padding as Conv and the pooling ops spell it: `pads`, or `auto_pad`."""

from __future__ import annotations

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor

from netadapt_onnx.training.ops.registry import Node

Pads = tuple[list[int], list[int]]


def spatial_pads(
    node: Node, sizes: Sequence[int], kernel: Sequence[int], strides: Sequence[int], dilations: Sequence[int]
) -> Pads:
    """Padding at the start and the end of each spatial axis (ONNX Conv, `auto_pad`)."""
    mode = node.attribute("auto_pad", "NOTSET")
    axes = len(kernel)
    if mode in ("NOTSET", ""):
        pads = list(node.attribute("pads") or [0] * 2 * axes)
        return pads[:axes], pads[axes:]
    if mode == "VALID":
        return [0] * axes, [0] * axes
    begin, end = [], []
    for size, window, stride, dilation in zip(sizes, kernel, strides, dilations, strict=True):
        total = max(0, (-(-size // stride) - 1) * stride + dilation * (window - 1) + 1 - size)
        small, large = total // 2, total - total // 2
        begin.append(large if mode == "SAME_LOWER" else small)
        end.append(small if mode == "SAME_LOWER" else large)
    return begin, end


def pad_spatial(x: Tensor, begin: Sequence[int], end: Sequence[int], value: float = 0.0) -> Tensor:
    """Pad the last axes of `x` explicitly."""
    flat = [amount for pair in zip(reversed(begin), reversed(end), strict=True) for amount in pair]
    return F.pad(x, flat, value=value)
