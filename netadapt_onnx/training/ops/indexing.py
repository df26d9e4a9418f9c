"""Gathering, scattering and making index tensors."""

from __future__ import annotations

import torch
from torch import Tensor

from netadapt_onnx.training.ops.registry import DTYPES, Node, op


def _wrap(indices: Tensor, size: int, like: Tensor) -> Tensor:
    """Negative indices count from the end."""
    indices = indices.long().to(like.device)
    return torch.where(indices < 0, indices + size, indices)


@op("Gather")
def gather(node: Node, x: Tensor, indices: Tensor) -> Tensor:
    """Replace `axis` by the axes of `indices`."""
    axis = node.attribute("axis", 0) % x.dim()
    if 1 in node.constants and not indices.dim():
        return x.select(axis, int(node.constants[1]))  # a view; its gradient is a copy, not a scatter
    chosen = _wrap(indices, x.shape[axis], x)
    y = x.index_select(axis, chosen.reshape(-1))
    return y.reshape((*x.shape[:axis], *chosen.shape, *x.shape[axis + 1 :]))


@op("GatherElements")
def gather_elements(node: Node, x: Tensor, indices: Tensor) -> Tensor:
    """Pick along `axis`, position by position."""
    axis = node.attribute("axis", 0)
    return torch.gather(x, axis, _wrap(indices, x.shape[axis], x))


@op("GatherND")
def gather_nd(node: Node, x: Tensor, indices: Tensor) -> Tensor:
    """Pick slices by tuples of indices in the last axis."""
    if node.attribute("batch_dims", 0):
        raise node.refuse("with batch_dims")
    depth = indices.shape[-1]
    return x[tuple(_wrap(indices[..., i], x.shape[i], x) for i in range(depth))]


@op("ScatterElements", "Scatter")
def scatter_elements(node: Node, x: Tensor, indices: Tensor, updates: Tensor) -> Tensor:
    """Write along `axis`, position by position."""
    axis, how = node.attribute("axis", 0), node.attribute("reduction", "none")
    chosen = _wrap(indices, x.shape[axis], x)
    if how == "none":
        return x.scatter(axis, chosen, updates)
    names = {"add": "sum", "mul": "prod", "max": "amax", "min": "amin"}
    return x.scatter_reduce(axis, chosen, updates, names[how])


@op("ScatterND")
def scatter_nd(node: Node, x: Tensor, indices: Tensor, updates: Tensor) -> Tensor:
    """Write slices by tuples of indices in the last axis."""
    how = node.attribute("reduction", "none")
    if how not in ("none", "add"):
        raise node.refuse(f"with reduction {how}")
    where = tuple(_wrap(indices[..., i], x.shape[i], x) for i in range(indices.shape[-1]))
    return x.index_put(where, updates, accumulate=how == "add")


@op("ConstantOfShape")
def constant_of_shape(node: Node, shape: Tensor) -> Tensor:
    """A filled tensor; float zeros without `value`."""
    value = node.attribute("value")
    size = node.integers(0, shape) or []
    return torch.zeros(size) if value is None else torch.full(size, value.reshape(-1)[0].item(), dtype=value.dtype)


@op("Constant")
def constant(node: Node) -> Tensor:
    """Constants that normalisation left as nodes."""
    if not isinstance(node.attribute("value"), Tensor):
        raise node.refuse("without a dense tensor")
    value: Tensor = node.attribute("value")
    return value


@op("Range")
def range_(node: Node, start: Tensor, limit: Tensor, delta: Tensor) -> Tensor:
    """Numbers from start up to limit."""
    return torch.arange(start.item(), limit.item(), delta.item(), dtype=start.dtype)


@op("OneHot")
def one_hot(node: Node, indices: Tensor, depth: Tensor, values: Tensor) -> Tensor:
    """`values[1]` at each index along a new axis, else `values[0]`."""
    count = (node.integers(1, depth) or [0])[0]
    axis = node.attribute("axis", -1)
    chosen = _wrap(indices, count, values).unsqueeze(axis)
    shape = [1] * chosen.dim()
    shape[axis] = count
    return torch.where(chosen == torch.arange(count, device=chosen.device).reshape(shape), values[1], values[0])


@op("NonZero")
def non_zero(node: Node, x: Tensor) -> Tensor:
    """Positions of what is not zero. Shape: (rank, count)."""
    return torch.nonzero(x).t()


@op("EyeLike")
def eye_like(node: Node, x: Tensor) -> Tensor:
    """Ones on a diagonal."""
    dtype = DTYPES.get(node.attribute("dtype"), x.dtype)
    offset = node.attribute("k", 0)
    rows, columns = torch.arange(x.shape[0]), torch.arange(x.shape[1])
    return torch.eq(columns[None, :] - rows[:, None], offset).to(dtype)
