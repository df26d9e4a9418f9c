"""Reductions along axes, and what else labels meet on axes that a node works along."""

from __future__ import annotations

from collections.abc import Collection, Iterable

import numpy as np

from netadapt_onnx.graph.axis_arrays import Array
from netadapt_onnx.surgery.labels import Labels
from netadapt_onnx.surgery.node import Node, labelled_on
from netadapt_onnx.surgery.rules.registry import rule

REDUCTIONS = (
    *("ReduceMax", "ReduceMean", "ReduceMin", "ReduceProd", "ReduceSum", "ReduceSumSquare"),
    *("ReduceL1", "ReduceL2", "ReduceLogSum", "ReduceLogSumExp"),
)


@rule(*REDUCTIONS)
def reduce(node: Node, labels: Labels) -> None:
    """Labels on axes that stay pass. Labels on reduced axes alone are consumed: the sum runs over what is left."""
    x = node.inputs[0]
    rank = len(labels.shape(x))
    axes = labels.integers(node, 1, "axes")
    if not axes:
        axes = [] if node.integer("noop_with_empty_axes", 0) else list(range(rank))
    reduced(node, labels, {a % rank for a in axes}, keep_dims=bool(node.integer("keepdims", 1)))


def reduced(node: Node, labels: Labels, axes: set[int], *, keep_dims: bool = True) -> None:
    """Set the labels of what is left of the first input after `axes` were reduced."""
    factors = worked_over(node, labels, labels.of(node.inputs[0]), axes, "reduces")
    kept = [f for f in factors if all(f.shape[k] == 1 for k in axes)]
    labels.set(node.outputs[0], kept if keep_dims else [np.squeeze(f, tuple(axes)) for f in kept])


def worked_over(node: Node, labels: Labels, factors: Iterable[Array], axes: Collection[int], verb: str) -> list[Array]:
    """Labels of a tensor whose entries along `axes` a node combines: tied along these where they lie on others too.

    Labels on `axes` alone stay as they are: after a cut the node combines fewer entries.
    """
    passed = []
    for factor in factors:
        rest = [k for k in range(factor.ndim) if k not in axes]
        if labelled_on(factor, rest):
            factor = labels.keep_axes(factor, rest, f"'{node.name}' {verb} over it")
        elif factor.any():
            labels.gather(node)
        passed.append(factor)
    return passed


def pass_on(node: Node, labels: Labels, axes: Collection[int], verb: str) -> list[Array]:
    """Labels of the first input on `axes`, on which they pass; what the node does to the others is `verb`."""
    return [labels.keep_axes(f, axes, f"'{node.name}' {verb} it") for f in labels.of(node.inputs[0])]


def unresized(node: Node, labels: Labels) -> set[int]:
    """The axes that are as long in the first output as in the first input."""
    lengths = zip(labels.shape(node.inputs[0]), labels.shape(node.outputs[0]), strict=True)
    return {k for k, (before, after) in enumerate(lengths) if before == after}


def collapsed(node: Node, labels: Labels, axes: Iterable[int], reason: str) -> list[Array]:
    """Labels of the first input tied along `axes`."""
    factors = list(labels.of(node.inputs[0]))
    for axis in axes:
        factors = [labels.collapse(f, axis, reason) for f in factors]
    return factors
