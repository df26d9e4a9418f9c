"""Resampling: Resize and Upsample gather along one axis at a time, so every mode of the specification is there."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from netadapt_onnx.training.ops.registry import Node, op


@op("Upsample")
def upsample(node: Node, x: Tensor, scales: Tensor | None = None) -> Tensor:
    """Resize as it was before opset 10: asymmetric coordinates, rounded down."""
    factors = node.attribute("scales") if scales is None else node.numbers(1, scales)
    sizes = [int(n * f) for n, f in zip(x.shape, factors, strict=True)]
    mode = {"linear": "linear", "bilinear": "linear"}.get(node.attribute("mode", "nearest"), "nearest")
    return _resize(x, sizes, factors, mode, "asymmetric", "floor", -0.75, False)


@op("Resize")
def resize(node: Node, x: Tensor, *rest: Tensor | None) -> Tensor:
    """Nearest, linear and cubic resizing of any axes (ONNX Resize, opsets 10 to 19).

    Raises NetadaptError for tf_crop_and_resize, antialiasing and aspect-ratio policies.
    """
    coordinates = node.attribute("coordinate_transformation_mode", "half_pixel" if node.opset >= 11 else "asymmetric")
    policy = node.attribute("keep_aspect_ratio_policy", "stretch")
    if coordinates == "tf_crop_and_resize" or node.attribute("antialias", 0) or policy != "stretch":
        raise node.refuse("with cropping, antialiasing or an aspect-ratio policy")
    position = 2 if node.opset >= 11 else 1
    scales = rest[position - 1] if len(rest) >= position else None
    target = rest[2] if len(rest) >= 3 else None
    axes = node.attribute("axes") or list(range(x.dim()))
    sizes, factors = list(x.shape), [1.0] * x.dim()
    if target is not None and target.numel():
        for axis, size in zip(axes, node.integers(3, target) or [], strict=True):
            # A model exported for a fixed batch writes that batch down; the batch axis is never resized.
            sizes[axis] = size if axis or size != 1 else x.shape[0]
            factors[axis] = sizes[axis] / x.shape[axis]
    elif scales is not None:
        for axis, factor in zip(axes, node.numbers(position, scales), strict=True):
            sizes[axis], factors[axis] = int(x.shape[axis] * factor), factor
    rounding = node.attribute("nearest_mode", "round_prefer_floor" if node.opset >= 11 else "floor")
    return _resize(
        x, sizes, factors, node.attribute("mode", "nearest"), coordinates, rounding,
        node.attribute("cubic_coeff_a", -0.75), bool(node.attribute("exclude_outside", 0)),
    )  # fmt: skip


@op("GridSample")
def grid_sample(node: Node, x: Tensor, grid: Tensor) -> Tensor:
    """Sample x at normalised positions. Shapes: x (N, C, H, W); grid (N, H', W', 2); y (N, C, H', W')."""
    mode = node.attribute("mode", "linear" if node.opset >= 20 else "bilinear")
    mode = {"linear": "bilinear", "cubic": "bicubic"}.get(mode, mode)
    padding, aligned = node.attribute("padding_mode", "zeros"), bool(node.attribute("align_corners", 0))
    return F.grid_sample(x, grid, mode, padding, aligned)


def _resize(
    x: Tensor, sizes: Sequence[int], factors: Sequence[float], mode: str, coordinates: str, rounding: str,
    cubic: float, exclude: bool,
) -> Tensor:  # fmt: skip
    fast = _fast(x, sizes, factors, mode, coordinates, rounding)
    if fast is not None:
        return fast
    for axis, (size, factor) in enumerate(zip(sizes, factors, strict=True)):
        if size == x.shape[axis] and factor == 1:
            continue
        at = _source(size, x.shape[axis], factor, coordinates)
        last = x.shape[axis] - 1
        if mode == "nearest":
            x = x.index_select(axis, _round(at, rounding).clamp(0, last).long().to(x.device))
            continue
        taps = (0, 1) if mode == "linear" else (-1, 0, 1, 2)
        floor = at.floor()
        weights = [_weight(at - floor - tap, mode, cubic) for tap in taps]
        if exclude:
            weights = [w * ((floor + t >= 0) & (floor + t <= last)) for w, t in zip(weights, taps, strict=True)]
            total = torch.stack(weights).sum(0)
            weights = [w / total for w in weights]
        shape = [1] * x.dim()
        shape[axis] = size
        terms = (
            x.index_select(axis, (floor + tap).clamp(0, last).long().to(x.device)) * w.to(x).reshape(shape)
            for tap, w in zip(taps, weights, strict=True)
        )
        x = torch.stack(tuple(terms)).sum(0)
    return x


def _fast(
    x: Tensor, sizes: Sequence[int], factors: Sequence[float], mode: str, coordinates: str, rounding: str
) -> Tensor | None:
    """torch's own kernel where it computes the same: the usual upsampling of images."""
    if x.dim() != 4 or tuple(sizes[:2]) != tuple(x.shape[:2]):
        return None
    enlarges_by_integers = all(f >= 1 and f == int(f) for f in factors)
    if mode == "nearest" and enlarges_by_integers and (coordinates, rounding) in {
        ("asymmetric", "floor"), ("half_pixel", "round_prefer_floor"), ("half_pixel", "round_prefer_ceil"),
    }:  # fmt: skip
        return F.interpolate(x, size=tuple(sizes[2:]), mode="nearest")
    if mode == "linear" and coordinates == "align_corners":
        return F.interpolate(x, size=tuple(sizes[2:]), mode="bilinear", align_corners=True)
    if mode == "linear" and enlarges_by_integers and coordinates in ("half_pixel", "pytorch_half_pixel"):
        return F.interpolate(x, size=tuple(sizes[2:]), mode="bilinear", align_corners=False)
    return None


def _source(size: int, length: int, factor: float, coordinates: str) -> Tensor:
    """Where each output position lies in the input (ONNX Resize, coordinate_transformation_mode)."""
    at = torch.arange(size, dtype=torch.float64)
    if coordinates == "align_corners":
        return at * ((length - 1) / (size - 1)) if size > 1 else at * 0
    if coordinates == "asymmetric":
        return at / factor
    if coordinates == "pytorch_half_pixel" and size == 1:
        return at * 0
    if coordinates == "half_pixel_symmetric":
        adjusted = length * factor
        return length / 2 * (1 - size / adjusted) + (at + 0.5) / factor - 0.5
    return (at + 0.5) / factor - 0.5


def _round(at: Tensor, rounding: str) -> Tensor:
    if rounding == "floor":
        return at.floor()
    if rounding == "ceil":
        return at.ceil()
    return (at - 0.5).ceil() if rounding == "round_prefer_floor" else (at + 0.5).floor()


def _weight(distance: Tensor, mode: str, a: float) -> Tensor:
    """The weight of a tap `distance` away: a triangle, or Keys' cubic kernel."""
    d = distance.abs()
    if mode == "linear":
        return (1 - d).clamp_min(0)
    near = ((a + 2) * d - (a + 3)) * d * d + 1
    far = ((a * d - 5 * a) * d + 8 * a) * d - 4 * a
    return torch.where(d <= 1, near, torch.where(d < 2, far, torch.zeros_like(d)))
