"""Reductions along axes."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from netadapt_onnx.training.ops.registry import Node, op

Reduce = Callable[[Tensor, tuple[int, ...], bool], Tensor]


def _register(name: str, function: Reduce) -> None:
    @op(name)
    def reduce(node: Node, x: Tensor, axes: Tensor | None = None) -> Tensor:
        chosen = node.attribute("axes") if axes is None else node.integers(1, axes)
        if not chosen:
            if node.attribute("noop_with_empty_axes", 0):
                return x
            chosen = list(range(x.dim()))
        return function(x, tuple(a % x.dim() for a in chosen) if x.dim() else (), bool(node.attribute("keepdims", 1)))


def _mean(x: Tensor, axes: tuple[int, ...], keep: bool) -> Tensor:
    if x.is_floating_point():
        return x.mean(dim=axes, keepdim=keep)
    return x.double().mean(dim=axes, keepdim=keep).to(x.dtype)


def _product(x: Tensor, axes: tuple[int, ...], keep: bool) -> Tensor:
    for axis in sorted(axes, reverse=True):
        x = x.prod(dim=axis, keepdim=keep)
    return x


_REDUCE: dict[str, Reduce] = {
    "ReduceMean": _mean,
    "ReduceSum": lambda x, axes, keep: x.sum(dim=axes, keepdim=keep, dtype=x.dtype),
    "ReduceMax": lambda x, axes, keep: x.amax(dim=axes, keepdim=keep),
    "ReduceMin": lambda x, axes, keep: x.amin(dim=axes, keepdim=keep),
    "ReduceProd": _product,
    "ReduceL1": lambda x, axes, keep: x.abs().sum(dim=axes, keepdim=keep, dtype=x.dtype),
    "ReduceL2": lambda x, axes, keep: torch.linalg.vector_norm(x, 2, dim=axes, keepdim=keep),
    "ReduceSumSquare": lambda x, axes, keep: x.pow(2).sum(dim=axes, keepdim=keep, dtype=x.dtype),
    "ReduceLogSum": lambda x, axes, keep: x.sum(dim=axes, keepdim=keep).log(),
    "ReduceLogSumExp": lambda x, axes, keep: torch.logsumexp(x, dim=axes, keepdim=keep),
}
for _name, _function in _REDUCE.items():
    _register(_name, _function)


@op("ArgMax", "ArgMin")
def arg_extreme(node: Node, x: Tensor) -> Tensor:
    """The index of the largest, or the smallest, entry along an axis."""
    if node.attribute("select_last_index", 0):
        raise node.refuse("with select_last_index")
    find = torch.argmax if node.op == "ArgMax" else torch.argmin
    return find(x, node.attribute("axis", 0), keepdim=bool(node.attribute("keepdims", 1)))


@op("CumSum")
def cum_sum(node: Node, x: Tensor, axis: Tensor) -> Tensor:
    """Running sums along an axis, optionally reversed or without the entry itself."""
    dim = (node.integers(1, axis) or [0])[0]
    source = x.flip(dim) if node.attribute("reverse", 0) else x
    total = source.cumsum(dim, dtype=x.dtype)
    if node.attribute("exclusive", 0):
        total = total - source
    return total.flip(dim) if node.attribute("reverse", 0) else total


@op("TopK")
def top_k(node: Node, x: Tensor, k: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """The k largest or smallest along an axis, with their indices."""
    count = node.attribute("k") if k is None else (node.integers(1, k) or [0])[0]
    values, indices = torch.topk(
        x, count, node.attribute("axis", -1), bool(node.attribute("largest", 1)), bool(node.attribute("sorted", 1))
    )
    return values, indices
