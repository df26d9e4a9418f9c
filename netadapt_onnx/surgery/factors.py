"""Factors: arrays of labels with a tensor's rank, in which an axis without channels has length 1 (`labels.py`)."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from netadapt_onnx.graph.axis_arrays import Array
from netadapt_onnx.graph.shapes import Shape


def align(factor: Array, rank: int) -> Array:
    """Prepend axes of length 1, as broadcasting does."""
    return factor.reshape((1,) * (rank - factor.ndim) + factor.shape)


def aligned_shape(shape: Sequence[int], rank: int) -> Shape:
    """Prepend axes of length 1 to a shape, as broadcasting does."""
    return (1,) * (rank - len(shape)) + tuple(shape)


def labelled(factors: Iterable[Array], axis: int) -> bool:
    """Whether any of the factors has labels along `axis`."""
    return any(f.shape[axis] > 1 for f in factors)


def labelled_on(factor: Array, axes: Iterable[int]) -> bool:
    """Whether a factor has labels along any of the axes."""
    return any(factor.shape[k] > 1 for k in axes)
