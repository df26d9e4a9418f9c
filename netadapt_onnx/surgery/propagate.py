"""Propagate labels through a model: apply the rules to all nodes, then tie what has to be cut alike."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain
from math import prod

import numpy as np
import onnx

from netadapt_onnx.common.grouping import grouped
from netadapt_onnx.errors import NetadaptError, did_you_mean
from netadapt_onnx.graph.axis_arrays import Array, squeeze
from netadapt_onnx.graph.folded_model import FoldedModel
from netadapt_onnx.graph.nodes import domain_of
from netadapt_onnx.surgery.conv_groups import tie_by_index, tie_in_bundles
from netadapt_onnx.surgery.flatten_subgraphs import FlatSubgraph
from netadapt_onnx.surgery.labels import MOST_AXES, MOST_POSITIONS, Labels, Unsupported
from netadapt_onnx.surgery.node import Node
from netadapt_onnx.surgery.records import Factors
from netadapt_onnx.surgery.rules import RULES
from netadapt_onnx.surgery.union_find import components

# A tensor of more elements is not labelled position by position.
LARGEST_JOINT = 1 << 20


def propagate(folded: FoldedModel, subgraphs: Sequence[FlatSubgraph], labels: Labels) -> tuple[Array, Array]:
    """Apply the rules to all nodes of the flat model; returns the roots of all labels and `runs` (see `Trace`)."""
    proto = labels.flat.proto
    versions = {domain_of(entry): entry.version for entry in proto.opset_import}
    nodes = [Node(i, node, versions.get(domain_of(node), 1)) for i, node in enumerate(proto.graph.node)]
    _open_inputs(folded, labels)
    for name in (name for subgraph in subgraphs for name in subgraph.inputs):
        _open(name, labels)
    for node in nodes:
        _apply(node, labels)
    for value in folded.proto.graph.output:
        if value.name not in labels.choices.resize_io:
            labels.pin_tensor(value.name, f"reaches graph output '{value.name}'")
    _tie_shared_weights(proto, nodes, labels)
    return _tie_conv_groups(labels)


def stuck_whole_groups(labels: Labels, roots: Array) -> frozenset[str]:
    """Convolutions of which whole conv groups would go, but none can: a shuffle ties them all, or an output all stays.

    They may keep equal counts instead.
    """
    pinned = labels.pinned_sets()
    stuck = set()
    for layer in labels.layers:
        if layer.name in labels.whole_groups:
            sets = np.unique(roots[layer.channels])
            if len(sets) == 1 or pinned[sets].all():
                stuck.add(layer.name)
    return frozenset(stuck - labels.conv_group_metadata.whole_groups)


def _tie_conv_groups(labels: Labels) -> tuple[Array, Array]:
    """Tie what keeps conv groups equal and tensors rectangles; returns the roots of all labels with and without."""
    runs: Array | None = None
    if labels.balances and labels.conv_group_metadata.ties:
        _resolve(labels)
        runs = labels.ties.all_roots()
        labels.ties.tie(*labels.conv_group_metadata.pairs([(layer.name, layer.channels) for layer in labels.layers]))
    uneven = tie_by_index(labels)
    _resolve(labels)
    runs = labels.ties.all_roots() if runs is None else runs
    if uneven:
        tie_in_bundles(labels, uneven)
        _resolve(labels)
    roots = labels.ties.all_roots()
    return (runs if np.array_equal(roots, runs) else roots), runs


def _open_inputs(folded: FoldedModel, labels: Labels) -> None:
    """Inputs that may be resized start labels of their own on every axis."""
    names = [value.name for value in (*folded.proto.graph.input, *folded.proto.graph.output)]
    for name in labels.choices.resize_io:
        if name not in names:
            hint = did_you_mean(name, names, f"one of {', '.join(names)}")
            raise NetadaptError(f"the model has no input or output '{name}'", hint=hint, code="usage")
        if name in folded.specs:
            _open(name, labels, jointly=True)


def _open(name: str, labels: Labels, *, jointly: bool = False) -> None:
    """Start labels on every axis of a tensor that no node produces.

    `jointly`: at every position one of its own, so that what reads it decides which axis is cut: the heads of a cache
    or the dimensions of all heads. Large tensors are labelled axis by axis, which takes no memory.
    """
    shape = labels.shape(name)
    if labels.kind(name) == "f" and jointly and prod(shape) <= LARGEST_JOINT:
        labels.set(name, [labels.fresh(prod(shape)).reshape(shape)] if prod(shape) > 1 else [])
    elif labels.kind(name) == "f" and max(shape, default=0) <= MOST_POSITIONS:
        labels.set(name, labels.on_every_axis(shape))


def _apply(node: Node, labels: Labels) -> None:
    mark = labels.snapshot()
    apply = RULES.get((node.domain, node.op))
    try:
        if apply is None:
            raise Unsupported(f"no rule for {node.domain + '::' if node.domain else ''}{node.op}")
        _refuse_unusual_axes(node, labels)
        apply(node, labels)
    except (Unsupported, ValueError, IndexError, KeyError, TypeError) as error:
        labels.restore(mark)
        reason = str(error) if isinstance(error, Unsupported) else f"{node.op} in a form without a rule: {error}"
        for name in (*node.inputs, *node.captured):
            labels.pin_tensor(name, f"{reason} ('{node.name}')")
        for name in node.outputs:
            labels.factors.pop(name, None)
    labels.pin_unregarded(node)


def _refuse_unusual_axes(node: Node, labels: Labels) -> None:
    for name in (*node.outputs, *node.inputs):
        shape = labels.flat.shapes.get(name, ())
        if len(shape) > MOST_AXES:
            raise Unsupported(f"'{name}' has {len(shape)} axes")
        if max(shape, default=0) > MOST_POSITIONS:
            raise Unsupported(f"'{name}' has an axis of {max(shape)} positions")


def _tie_shared_weights(proto: onnx.ModelProto, nodes: list[Node], labels: Labels) -> None:
    """Tie the uses of a matrix by several nodes in the same role into one decision.

    Vectors, and matrices in different roles, are cloned where their slices differ.
    """
    slots = grouped((name, (node, slot)) for node in nodes for slot, name in enumerate(node.inputs))
    uses = {(use.node, use.slot): use.factors for use in labels.uses}
    for tensor in proto.graph.initializer:
        readers = slots.get(tensor.name, [])
        if len(readers) < 2 or len(tensor.dims) < 2 or labels.kind(tensor.name) != "f":
            continue
        roles = grouped(((node.op, slot), uses.get((node.index, slot), ())) for node, slot in readers)
        for factors_by_reader in roles.values():
            _tie_readers(labels, factors_by_reader, f"'{tensor.name}' is shared")


def _tie_readers(labels: Labels, factors_by_reader: Sequence[Factors], reason: str) -> None:
    """Tie the labels that the readers of one matrix give it; what one of them does not cut stays for all."""
    bound = [factors for factors in factors_by_reader if factors]
    if len(factors_by_reader) < 2 or not bound:
        return
    merged = list(bound[0])
    for factor in chain.from_iterable(bound[1:]):
        merged = labels.join(merged, factor, reason)
    for factors in factors_by_reader:
        for factor in merged:
            if not any(np.any((np.array(f.shape) > 1) & (np.array(factor.shape) > 1)) for f in factors):
                labels.pin(factor, f"{reason} with a node that does not cut it")


def _resolve(labels: Labels) -> None:
    """Tie until what any cut keeps of every tensor is a rectangle: each factor may vary along one axis only."""
    joint = [f for factors in labels.factors.values() for f in factors if np.sum(np.array(f.shape) > 1) > 1]
    joint += [f for use in labels.uses for f in use.factors if np.sum(np.array(f.shape) > 1) > 1]
    pins, pinned = -1, np.zeros(0, bool)
    changed = True
    while changed:
        changed = False
        for factor in joint:
            if len(labels.pins) != pins:
                pins, pinned = len(labels.pins), labels.pinned_sets()
            roots = labels.ties.roots(factor)
            roots = squeeze(np.where(pinned[roots], 0, roots))  # kept in any case, like unlabelled positions
            axes = [k for k, n in enumerate(roots.shape) if n > 1]
            if len(axes) > 1:
                best = max(axes, key=lambda k: components(roots, k))
                labels.keep_axes(roots, (best,), "must stay a rectangle")
                changed = True
