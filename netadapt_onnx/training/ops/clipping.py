"""Clip, alone and with the Pad behind it, keeping for the gradient what it puts out rather than what it reads.

The layer behind keeps that too, so that of the tensors between two layers two are kept and not three: of a batch of 29
pictures 1.8 GB and not 2.5 in an EfficientNet-Lite0.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from netadapt_onnx.training.ops.movement import constant_pads
from netadapt_onnx.training.ops.registry import Node, op


class _Clipped(torch.autograd.Function):
    """`F.hardtanh` between two bounds, then `F.pad`; the gradient is that of these two, to the bit."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, low: float, high: float, pads: Sequence[int], fill: float) -> Tensor:
        y = F.hardtanh(x, low, high)
        if pads:
            y = F.pad(y, list(pads), value=fill)
        ctx.save_for_backward(y)
        ctx.low, ctx.high, ctx.pads = low, high, pads
        return y

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        (y,), (gradient,) = ctx.saved_tensors, gradients
        if ctx.pads:
            gradient = F.pad(gradient, [-amount for amount in ctx.pads])
            for axis, (before, after) in enumerate(zip(ctx.pads[::2], ctx.pads[1::2], strict=True), 1):
                y = y.narrow(-axis, before, y.shape[-axis] - before - after)
        # A value is at a bound or beyond it exactly where what it is clipped to is at the bound.
        return torch.ops.aten.hardtanh_backward(gradient, y, ctx.low, ctx.high), None, None, None, None


def _clip(node: Node, x: Tensor, low: Tensor | None = None, high: Tensor | None = None) -> Tensor:
    """Bounds are inputs from opset 11 on, attributes before."""
    least, most = _bounds(node, low, high)
    if least is None and most is None:
        return x
    if x.dtype in (torch.int32, torch.int64):
        least, most = (None if v is None or abs(v) == float("inf") else int(v) for v in (least, most))
    bounds = _finite(x, least, most)
    # clamp's gradient takes three passes and a third of a MobileNetV2's step; hardtanh's takes one.
    return torch.clamp(x, least, most) if bounds is None else _clipped(x, bounds)


op("Clip")(_clip)


def clip_and_pad(clip_node: Node, pad_node: Node, _: Node, x: Tensor, *rest: Tensor | None) -> Tensor:
    """A Clip and the Pad behind it, of which nothing is kept for the gradient but what the Pad puts out.

    Args:
        clip_node: The Clip.
        pad_node: The Pad, by a constant.
        x: What the Clip reads.
        rest: The other inputs of the Clip, then those of the Pad.
    """
    of_clip, of_pad = rest[: len(clip_node.inputs) - 1], rest[len(clip_node.inputs) - 1 :]
    bounds = _finite(x, *_bounds(clip_node, *of_clip))
    pads, fill = constant_pads(pad_node, x.dim(), *of_pad)
    if bounds is None or min(pads, default=0) < 0:
        return F.pad(_clip(clip_node, x, *of_clip), pads, value=fill)
    return _clipped(x, bounds, pads, fill)


def _bounds(node: Node, low: Tensor | None = None, high: Tensor | None = None) -> tuple[float | None, float | None]:
    least = node.attribute("min") if low is None else node.number(1, low, float("-inf"))
    most = node.attribute("max") if high is None else node.number(2, high, float("inf"))
    return least, most


def _finite(x: Tensor, least: float | None, most: float | None) -> tuple[float, float] | None:
    """Both bounds of floats; None where one of them is missing."""
    if least is None or most is None or not x.is_floating_point() or float("inf") in (abs(least), abs(most)):
        return None
    return float(least), float(most)


def _clipped(x: Tensor, bounds: tuple[float, float], pads: Sequence[int] = (), fill: float = 0.0) -> Tensor:
    low, high = bounds
    # A bound that x's type rounds is no longer the bound; and where no gradient is asked for, there is nothing to keep.
    is_exact = x.dtype in (torch.float32, torch.float64) or all(_rounded(v, x.dtype) == v for v in bounds)
    if is_exact and x.requires_grad and torch.is_grad_enabled():
        clipped: Tensor = _Clipped.apply(x, low, high, tuple(pads), fill)  # type: ignore[no-untyped-call]
        return clipped
    y = F.hardtanh(x, low, high)
    return F.pad(y, list(pads), value=fill) if pads else y


def _rounded(value: float, dtype: torch.dtype) -> float:
    return float(torch.tensor(value, dtype=dtype))
