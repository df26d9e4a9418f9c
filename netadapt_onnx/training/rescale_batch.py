"""Reshape and Expand at another batch size than the one that is written into their target."""

from __future__ import annotations

import numpy as np
from torch import Tensor

from netadapt_onnx.errors import NetadaptError
from netadapt_onnx.training.ops.registry import Node

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
