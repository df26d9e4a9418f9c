"""Arrays that stand for the elements of a tensor: an axis along which they do not change has length 1."""

from __future__ import annotations

from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from netadapt_onnx.graph.shapes import Shape

Array = NDArray[np.int64]
Element = TypeVar("Element", bound=np.generic)
# For each run the axes before and after.
Runs = list[tuple[list[int], list[int]]]


class UnmatchedShapes(ValueError):
    """Two shapes between which a Reshape mixes axes."""


def squeeze(array: Array) -> Array:
    """Give length 1 to every axis along which an array does not change."""
    for axis, length in enumerate(array.shape):
        if length > 1:
            first = array.take([0], axis=axis)
            if (first == array).all():
                array = first
    return array


def on_axis(values: NDArray[Element], axis: int, rank: int) -> NDArray[Element]:
    """Values (n,) along one axis of an array with `rank` axes."""
    return values.reshape([-1 if k == axis else 1 for k in range(rank)])


def regroup(array: Array, before: Shape, after: Shape) -> Array:
    """What becomes of an array when a tensor of shape `before` is reshaped to `after`. Raises UnmatchedShapes."""
    spelled: list[int] = []
    target: list[int] = []
    for sources, targets in matching_runs(before, after):
        changes = any(array.shape[k] > 1 for k in sources)
        spelled += [before[k] if changes else 1 for k in sources]
        target += [after[k] if changes else 1 for k in targets]
    return np.broadcast_to(array, spelled).reshape(target)


def matching_runs(before: Shape, after: Shape) -> Runs:
    """The smallest runs of axes of two shapes whose products are equal. Raises UnmatchedShapes where there are none."""
    if 0 in before or int(np.prod(before)) != int(np.prod(after)):
        raise UnmatchedShapes(f"shapes {before} and {after} cannot be matched")
    runs: Runs = []
    i = j = 0
    while i < len(before) or j < len(after):
        sources, targets = ([i] if i < len(before) else []), ([j] if j < len(after) else [])
        size_before = before[i] if sources else 1
        size_after = after[j] if targets else 1
        i, j = i + len(sources), j + len(targets)
        while size_before != size_after:
            if size_before < size_after:
                size_before, sources, i = size_before * before[i], [*sources, i], i + 1
            else:
                size_after, targets, j = size_after * after[j], [*targets, j], j + 1
        runs.append((sources, targets))
    return runs
