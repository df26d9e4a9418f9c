"""Ops that move values without changing them."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from netadapt_onnx.errors import NetadaptError
from netadapt_onnx.training.ops.registry import Node, op


@op("Reshape")
def reshape(node: Node, x: Tensor, target: Tensor | None = None) -> Tensor:
    """0 copies the input's axis (unless `allowzero`), -1 is what is left."""
    shape = list(node.attribute("shape") or []) if target is None else node.integers(1, target) or []
    if not node.attribute("allowzero", 0):
        shape = [x.shape[i] if size == 0 else size for i, size in enumerate(shape)]
    return x.reshape(shape)


@op("Flatten")
def flatten(node: Node, x: Tensor) -> Tensor:
    """To two axes, split in front of `axis`."""
    axis = node.attribute("axis", 1)
    if axis < 0:
        axis += x.dim()
    rows = 1
    for size in x.shape[:axis]:
        rows *= size
    return x.reshape(rows, -1)


@op("Transpose")
def transpose(node: Node, x: Tensor) -> Tensor:
    """Permute axes; all reversed without `perm`."""
    return x.permute(node.attribute("perm") or list(range(x.dim()))[::-1])


@op("Squeeze")
def squeeze(node: Node, x: Tensor, axes: Tensor | None = None) -> Tensor:
    """Drop axes of length one."""
    chosen = node.attribute("axes") if axes is None else node.integers(1, axes)
    return x.squeeze() if chosen is None else x.squeeze(tuple(a % x.dim() for a in chosen))


@op("Unsqueeze")
def unsqueeze(node: Node, x: Tensor, axes: Tensor | None = None) -> Tensor:
    """Insert axes of length one."""
    chosen = (node.attribute("axes") if axes is None else node.integers(1, axes)) or []
    rank = x.dim() + len(chosen)
    for axis in sorted(a % rank for a in chosen):
        x = x.unsqueeze(axis)
    return x


@op("Concat")
def concat(node: Node, *inputs: Tensor) -> Tensor:
    """Join along an axis. A constant stored for a batch of one (a class token) is repeated for the batch at hand."""
    axis = node.attribute("axis", 1) % max(1, inputs[0].dim())
    batch = max(x.shape[0] for x in inputs)
    if axis and any(x.shape[0] != batch for x in inputs):
        return torch.cat([x.expand(batch, *x.shape[1:]) for x in inputs], axis)
    return torch.cat(inputs, axis)


@op("Split")
def split(node: Node, x: Tensor, sizes: Tensor | None = None) -> tuple[Tensor, ...]:
    """Sizes from the input, the attribute, or equal parts (the last one smaller)."""
    axis = node.attribute("axis", 0)
    lengths = node.attribute("split") if sizes is None else node.integers(1, sizes)
    if not lengths:
        parts = node.attribute("num_outputs") or len(node.outputs)
        lengths = -(-x.shape[axis] // parts)
    return tuple(torch.split(x, lengths, axis))


@op("Slice")
def slice_(
    node: Node, x: Tensor, starts: Tensor | None = None, ends: Tensor | None = None, axes: Tensor | None = None,
    steps: Tensor | None = None,
) -> Tensor:  # fmt: skip
    """numpy's slicing, negative steps included."""
    first = (node.attribute("starts") if starts is None else node.integers(1, starts)) or []
    last = (node.attribute("ends") if ends is None else node.integers(2, ends)) or []
    chosen = (node.attribute("axes") if axes is None else node.integers(3, axes)) or list(range(len(first)))
    strides = node.integers(4, steps) or [1] * len(first)
    for axis, begin, end, step in zip(chosen, first, last, strides, strict=True):
        begin, end, step = slice(begin, end, step).indices(x.shape[axis])
        if step > 0:
            x = x[(slice(None),) * (axis % x.dim()) + (slice(begin, max(begin, end), step),)]
        else:
            x = x.index_select(axis, torch.arange(begin, end, step, device=x.device))
    return x


@op("Pad")
def pad(
    node: Node, x: Tensor, pads: Tensor | None = None, value: Tensor | None = None, axes: Tensor | None = None
) -> Tensor:
    """Constant, edge, reflect or wrap padding; negative amounts crop."""
    mode = node.attribute("mode", "constant")
    if mode == "constant":
        flat, fill = constant_pads(node, x.dim(), pads, value, axes)
        return F.pad(x, flat, value=fill)
    for axis, (before, after) in enumerate(_pads_by_axis(node, x.dim(), pads, axes)):
        if before or after:
            x = x.index_select(axis, _border(x.shape[axis], before, after, mode).to(x.device))
    return x


def constant_pads(
    node: Node, dimensions: int, pads: Tensor | None = None, value: Tensor | None = None, axes: Tensor | None = None
) -> tuple[list[int], float]:
    """The amounts of a Pad as `F.pad` takes them, last axis first, and what it pads with."""
    fill = node.attribute("value", 0.0) if value is None else node.number(2, value, 0.0)
    by_axis = _pads_by_axis(node, dimensions, pads, axes)
    return [amount for pair in reversed(by_axis) for amount in pair], fill


def _pads_by_axis(node: Node, dimensions: int, pads: Tensor | None, axes: Tensor | None) -> list[tuple[int, int]]:
    """What a Pad adds in front of and behind each axis."""
    amounts = (node.attribute("pads") if pads is None else node.integers(1, pads)) or []
    chosen = node.integers(3, axes) or list(range(dimensions))
    half = len(amounts) // 2
    by_axis = [(0, 0)] * dimensions
    for axis, before, after in zip(chosen, amounts[:half], amounts[half:], strict=True):
        by_axis[axis] = before, after
    return by_axis


def _border(size: int, before: int, after: int, mode: str) -> Tensor:
    """Source positions of an axis padded by edge, reflect or wrap."""
    positions = torch.arange(-before, size + after)
    if mode == "edge":
        return positions.clamp(0, size - 1)
    if mode == "wrap":
        return positions % size
    period = max(1, 2 * (size - 1))
    folded = positions % period
    return torch.where(folded < size, folded, period - folded)


@op("Expand")
def expand(node: Node, x: Tensor, shape: Tensor) -> Tensor:
    """Broadcast both ways."""
    target = node.integers(1, shape) or []
    own = [1] * (len(target) - x.dim()) + list(x.shape)
    target = [1] * (x.dim() - len(target)) + target
    return x.expand([size if new == 1 else new for size, new in zip(own, target, strict=True)])


@op("Tile")
def tile(node: Node, x: Tensor, repeats: Tensor) -> Tensor:
    """Repeat along each axis."""
    return x.repeat(node.integers(1, repeats) or [])


@op("DepthToSpace")
def depth_to_space(node: Node, x: Tensor) -> Tensor:
    """Shapes: x (N, C, H, W); y (N, C/b^2, H*b, W*b)."""
    block = node.attribute("blocksize")
    n, c, h, w = x.shape
    if node.attribute("mode", "DCR") == "CRD":
        return F.pixel_shuffle(x, block)
    y = x.reshape(n, block, block, c // block**2, h, w).permute(0, 3, 4, 1, 5, 2)
    return y.reshape(n, c // block**2, h * block, w * block)


@op("SpaceToDepth")
def space_to_depth(node: Node, x: Tensor) -> Tensor:
    """Shapes: x (N, C, H, W); y (N, C*b^2, H/b, W/b)."""
    block = node.attribute("blocksize")
    n, c, h, w = x.shape
    y = x.reshape(n, c, h // block, block, w // block, block).permute(0, 3, 5, 1, 2, 4)
    return y.reshape(n, c * block**2, h // block, w // block)


@op("Shape")
def shape(node: Node, x: Tensor) -> Tensor:
    """The shape as int64, on the CPU: it only ever feeds shape arithmetic."""
    return torch.tensor(x.shape, dtype=torch.int64)[node.attribute("start", 0) : node.attribute("end")]


@op("Size")
def size(node: Node, x: Tensor) -> Tensor:
    """The number of elements."""
    return torch.tensor(x.numel(), dtype=torch.int64)


@op("Trilu")
def trilu(node: Node, x: Tensor, k: Tensor | None = None) -> Tensor:
    """The upper or lower triangle."""
    diagonal = (node.integers(1, k) or [0])[0]
    return torch.triu(x, diagonal) if node.attribute("upper", 1) else torch.tril(x, diagonal)


Shape = tuple[int, ...]


def rescale_batch(node: Node, x: Tensor | None, before: Shape, after: Shape) -> Tensor:
    """The result of a node at the batch size of `x`.

    Args:
        node: A Reshape or an Expand.
        x: Its input.
        before: The shape of the input at the batch size that the file declares.
        after: The shape of the result at that batch size.

    Raises:
        NetadaptError: It is not clear which axis of the result holds the batch.
    """
    assert x is not None
    target = _expand_target(node, x, before, after) if node.op == "Expand" else _reshape_target(node, x, before, after)
    return x.expand(target) if node.op == "Expand" else x.reshape(target)


def _reshape_target(node: Node, x: Tensor, before: Shape, after: Shape) -> list[int]:
    """The axis of the target that holds the batch is scaled: the one with as many entries in front of it."""
    target = list(after)
    changed = [i for i, (now, then) in enumerate(zip(x.shape, before, strict=True)) if now != then]
    if not changed:
        return target
    ahead = int(np.prod(before[: changed[0]], dtype=np.int64))
    axis = next((j for j in range(len(after)) if int(np.prod(after[:j], dtype=np.int64)) == ahead), None)
    if len(changed) > 1 or axis is None or after[axis] * x.shape[changed[0]] % before[changed[0]]:
        raise _fixed(node, after)
    target[axis] = after[axis] * x.shape[changed[0]] // before[changed[0]]
    return target


def _expand_target(node: Node, x: Tensor, before: Shape, after: Shape) -> list[int]:
    """Axes that have grown with the batch and were not expanded stay as they are."""
    new = len(after) - len(before)
    target = list(after)
    for axis, (now, then) in enumerate(zip(x.shape, before, strict=True)):
        if now == then:
            continue
        if after[new + axis] != then:
            raise _fixed(node, after)
        target[new + axis] = now
    return target


def _fixed(node: Node, after: Shape) -> NetadaptError:
    return NetadaptError(
        f"{node.op} to {list(after)} fixes the batch axis",
        hint="re-export with a dynamic batch",
        node=node.name,
        code="unsupported",
    )
