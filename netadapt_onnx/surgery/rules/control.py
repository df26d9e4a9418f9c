"""Control flow: what subgraphs receive, carry through iterations and return (laid out by `flatten_subgraphs.py`)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from netadapt_onnx.graph.axis_arrays import Array
from netadapt_onnx.graph.passes.hoist_loop_invariants import FIRST_CARRIED
from netadapt_onnx.surgery.flatten_subgraphs import BRANCHES, FlatSubgraph
from netadapt_onnx.surgery.labels import Labels, Unsupported
from netadapt_onnx.surgery.node import Node, labelled
from netadapt_onnx.surgery.rules.registry import rule


@rule("If")
def branch(node: Node, labels: Labels) -> None:
    """What both branches return has the same channels. One that cannot be traced keeps what it reads and returns."""
    traced = labels.subgraphs.get(_owner(node), ())
    untraced = _untraced(node, labels)
    if not traced:
        raise Unsupported(untraced)
    for name in node.captured:
        labels.pin_tensor(name, untraced)
    for i, y in enumerate(node.outputs):
        results = [subgraph.outputs[i] for subgraph in traced]
        if untraced:
            labels.pin_tensor(results[0], f"'{node.name}' returns the same from a branch that stays as it is")
        else:
            labels.set(y, _same(node, labels, results))


@rule("Loop")
def loop(node: Node, labels: Labels) -> None:
    """Carried values have the same channels before, inside and after; what is collected is stacked in front."""
    (subgraph,) = _subgraphs(node, labels)
    carried = len(node.inputs) - FIRST_CARRIED
    results = subgraph.outputs[1:]
    _carry(node, labels, range(FIRST_CARRIED, len(node.inputs)), subgraph.inputs, results)
    for y, result in list(zip(node.outputs, results, strict=False))[carried:]:
        labels.set(y, [factor[None] for factor in labels.of(result)])


@rule("Scan")
def scan(node: Node, labels: Labels) -> None:
    """States are carried as a Loop's; slices and what is collected lose or gain the axis that is scanned."""
    (subgraph,) = _subgraphs(node, labels)
    scanned = node.integer("num_scan_inputs", 0)
    states = len(node.inputs) - scanned
    axes = [int(a) for a in node.attributes.get("scan_input_axes", [0] * scanned)]
    for k, axis in enumerate(axes):
        x, formal = node.inputs[states + k], subgraph.inputs[states + k]
        axis %= len(labels.shape(x))
        reason = f"'{node.name}' scans it"
        inside = [np.expand_dims(f, axis) for f in labels.of(formal)]
        outside = [labels.collapse(f, axis, reason) for f in labels.of(x)]
        _tied(labels, [outside, inside], labels.shape(x), reason, axis)
    _carry(node, labels, range(states), subgraph.inputs, subgraph.outputs)
    collected = node.outputs[states:]
    outward = [int(a) for a in node.attributes.get("scan_output_axes", [0] * len(collected))]
    for i, y in enumerate(collected):
        if y:
            axis = outward[i] % len(labels.shape(y))
            labels.set(y, [np.expand_dims(f, axis) for f in labels.of(subgraph.outputs[states + i])])


def _subgraphs(node: Node, labels: Labels) -> Sequence[FlatSubgraph]:
    if untraced := _untraced(node, labels):
        raise Unsupported(untraced)
    return labels.subgraphs[_owner(node)]


def _owner(node: Node) -> str:
    return next(name for name in node.outputs if name)


def _untraced(node: Node, labels: Labels) -> str:
    """Which subgraphs of a node stay where they are, and why; '' if none does."""
    names = [f"{node.name}/{attribute}" for attribute in (*BRANCHES, "body")]
    return ", ".join(
        f"'{name}' stays as it is: {labels.flat.untraced[name]}" for name in names if name in labels.flat.untraced
    )


def _carry(node: Node, labels: Labels, slots: Sequence[int], formals: Sequence[str], results: Sequence[str]) -> None:
    """Tie each carried value's start, what the subgraph receives and what it returns; a constant start is cut along.

    Args:
        node: The node; its first outputs are the carried values.
        labels: What is labelled so far.
        slots: The inputs where the values start.
        formals: What the subgraph receives for each input.
        results: What it returns for each carried value.
    """
    for i, slot in enumerate(slots):
        start, formal, result = node.inputs[slot], formals[slot], results[i]
        if not labels.of(formal):
            continue
        if labels.shape(result) != labels.shape(formal):
            for name in (start, formal, result):
                labels.pin_tensor(name, f"'{node.name}' carries it in another shape")
            continue
        constant = labels.is_constant(start)
        merged = _same(node, labels, [formal, result] if constant else [formal, result, start])
        if constant:
            labels.bind(node, slot, merged)
        if i < len(node.outputs):
            labels.set(node.outputs[i], merged)


def _same(node: Node, labels: Labels, names: Sequence[str]) -> list[Array]:
    """Tie tensors of one shape position by position."""
    parts = [labels.of(name) for name in names]
    return _tied(labels, parts, labels.shape(names[0]), f"'{node.name}' passes it on")


def _tied(
    labels: Labels, parts: Sequence[Sequence[Array]], shape: Sequence[int], reason: str, apart: int | None = None
) -> list[Array]:
    """Tie labels of tensors of one shape; what one of them cannot lose stays in all, but along the axis `apart`."""
    merged: list[Array] = []
    for factor in (factor for part in parts for factor in part):
        merged = labels.join(merged, factor, reason)
    for axis, length in enumerate(shape):
        if axis != apart and length > 1 and not all(labelled(part, axis) for part in parts):
            merged = [labels.collapse(f, axis, reason) for f in merged]
    return merged
