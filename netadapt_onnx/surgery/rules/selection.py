"""Operators that pick positions: Gather and its kin, arg-selections."""

from __future__ import annotations

import numpy as np

from netadapt_onnx.graph.axis_arrays import on_axis
from netadapt_onnx.surgery.labels import Labels, Unsupported
from netadapt_onnx.surgery.node import Node, labelled
from netadapt_onnx.surgery.rules.node_edits import set_gather
from netadapt_onnx.surgery.rules.reduction import collapsed
from netadapt_onnx.surgery.rules.registry import rule


@rule("Gather")
def gather(node: Node, labels: Labels) -> None:
    """y = take(data, indices, axis). A constant table with runtime indices is an embedding: a layer."""
    data, indices, y = node.inputs[0], node.inputs[1], node.outputs[0]
    shape = labels.shape(data)
    axis = node.integer("axis", 0) % len(shape)
    extra = len(labels.shape(indices))
    if labels.is_constant(data):
        _embedding(node, labels, axis, extra)
        return
    factors = list(labels.of(data))
    if labelled(factors, axis):
        if not labels.is_constant(indices):
            reason = f"'{node.name}' picks from it by computed indices"
            factors = [labels.collapse(f, axis, reason) for f in factors]
        else:
            table = labels.value(indices).astype(np.int64)
            labels.edit(node, lambda cut, edited: set_gather(cut, edited, data, axis, table))
    at = np.zeros((1,) * extra, np.int64)
    picked = [f.take(labels.value(indices), axis) if f.shape[axis] > 1 else f.take(at, axis) for f in factors]
    labels.set(y, picked, f"single channel taken by '{node.name}'")
    within = range(axis, axis + extra)
    own = [f for f in picked if all(n == 1 or k in within for k, n in enumerate(f.shape))]
    if labels.is_constant(indices):  # it shrinks with what it picks
        labels.bind(node, 1, [f.reshape([f.shape[k] for k in within]) for f in own])


def _embedding(node: Node, labels: Labels, axis: int, extra: int) -> None:
    """Rows are picked at run time; the other axes start fresh labels."""
    shape = labels.shape(node.inputs[0])
    labels.pin_tensor(node.inputs[1], f"indices of '{node.name}'")
    other = 1 - axis
    if labels.is_constant(node.inputs[1]) or len(shape) != 2 or shape[other] == 1:
        return
    fresh = labels.fresh(shape[other])
    columns = on_axis(fresh, other, 2)
    labels.bind(node, 0, [columns])
    labels.owns(node, fresh, 0, other)
    labels.set(node.outputs[0], [columns.take(np.zeros((1,) * extra, np.int64), axis)])


@rule("ArgMax", "ArgMin")
def arg(node: Node, labels: Labels) -> None:
    """The result is an index into the axis, so nothing on it may go."""
    axis = node.integer("axis", 0) % len(labels.shape(node.inputs[0]))
    factors = collapsed(node, labels, [axis], f"'{node.name}' returns indices into it")
    labels.set(node.outputs[0], factors if node.integer("keepdims", 1) else [f.squeeze(axis) for f in factors])


@rule("TopK")
def top_k(node: Node, labels: Labels) -> None:
    """Sorting along an axis fixes it; labels on the others pass."""
    axis = node.integer("axis", -1) % len(labels.shape(node.inputs[0]))
    factors = collapsed(node, labels, [axis], f"'{node.name}' sorts along it")
    for y in node.outputs:
        labels.set(y, factors)


@rule("GatherElements")
def gather_elements(node: Node, labels: Labels) -> None:
    """Every element is picked on its own: whatever is labelled must stay."""
    if any(labels.of(name) for name in node.inputs):
        raise Unsupported("picks single elements")
