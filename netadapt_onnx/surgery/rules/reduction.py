"""Reductions along axes."""

from __future__ import annotations

import numpy as np

from netadapt_onnx.surgery.labels import Labels
from netadapt_onnx.surgery.node import Node
from netadapt_onnx.surgery.rules.registry import rule

REDUCTIONS = (
    "ReduceL1",
    "ReduceL2",
    "ReduceLogSum",
    "ReduceLogSumExp",
    "ReduceMax",
    "ReduceMean",
    "ReduceMin",
    "ReduceProd",
    "ReduceSum",
    "ReduceSumSquare",
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
    x = node.inputs[0]
    rank = len(labels.shape(x))
    kept = []
    for factor in labels.of(x):
        if any(n > 1 for k, n in enumerate(factor.shape) if k not in axes):
            rest = [k for k in range(rank) if k not in axes]
            kept.append(labels.keep_axes(factor, rest, f"'{node.name}' reduces over it"))
        elif factor.any():
            labels.gather(node)
    if not keep_dims:
        kept = [np.squeeze(f, tuple(axes)) for f in kept]
    labels.set(node.outputs[0], kept)
