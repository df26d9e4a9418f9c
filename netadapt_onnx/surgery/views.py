"""A view of a weight for each of its readers.

A cut slices the initializer behind a view (`KEPT_ON_WEIGHTS`: a Transpose, say), so whoever else reads that view, or
the caller who gets it as an output, would see the slice. With a view each, what one reader needs cut stays its own,
and an initializer behind several views is like any other that several nodes read.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from copy import deepcopy
from dataclasses import replace
from itertools import count

import onnx

from netadapt_onnx.errors import NetadaptError
from netadapt_onnx.graph.folded_model import FoldedModel
from netadapt_onnx.graph.nodes import captured, node_name, replace_all
from netadapt_onnx.graph.passes.fold_constants import KEPT_ON_WEIGHTS
from netadapt_onnx.graph.weightless import without_weights

# Copies beyond one for each place that reads a tensor: views of views that are read twice each double with every level.
MOST_FURTHER_COPIES = 10_000


def with_own_views(folded: FoldedModel) -> FoldedModel:
    """The model with no view of a weight that two places read; the same object if there is none.

    Raises NetadaptError (`too-large`) where that would be far more nodes than the model has.
    """
    graph = folded.proto.graph
    views = _views(graph)
    if not views:
        return folded
    names = {*folded.shapes, *(node_name(node) for node in graph.node)}
    # What outputs and subgraphs read keeps its name; of other readers the first one does.
    claimed = {value.name for value in graph.output}.union(*(captured(node) for node in graph.node))
    most = sum(len(node.input) for node in graph.node) + MOST_FURTHER_COPIES
    copies: defaultdict[str, list[str]] = defaultdict(list)  # by the view that they are copies of
    nodes: list[onnx.NodeProto] = []
    for node in reversed(graph.node):  # so that the copies of a view are readers of the view that it reads
        own = [node]
        if node.output and node.output[0] in views:
            own = [_renamed(node, copy) for copy in copies.get(node.output[0], ())] + own
        most -= len(own) - 1
        if most < 0:
            raise NetadaptError(
                f"'{node.output[0]}' and other views of weights are read along too many ways",
                hint="export the model with its constants folded",
                code="too-large",
            )
        for i, reader in enumerate(own):
            own[i] = reader = _reading_copies(reader, views, claimed, names, copies)
        nodes.extend(reversed(own))
    if not copies:
        return folded
    proto = without_weights(folded.proto)
    replace_all(proto.graph.node, reversed(nodes))
    proto.graph.initializer.extend(graph.initializer)
    shapes = {copy: folded.shapes[original] for original, alike in copies.items() for copy in alike}
    dtypes = {copy: folded.dtypes[original] for original, alike in copies.items() for copy in alike}
    return replace(folded, proto=proto, shapes={**folded.shapes, **shapes}, dtypes={**folded.dtypes, **dtypes})


def _views(graph: onnx.GraphProto) -> set[str]:
    """The views of initializers that more than one place reads, and those that these are views of."""
    reads = Counter(name for node in graph.node for name in (*node.input, *captured(node)))
    reads.update(value.name for value in graph.output)
    views = views_of_weights(graph)
    shared = {name for name in views if reads[name] > 1}
    for name in list(shared):
        while (name := views[name][1].input[0]) in views:
            shared.add(name)
    return shared


def views_of_weights(graph: onnx.GraphProto) -> dict[str, tuple[int, onnx.NodeProto]]:
    """The views of initializers, and views of these, each with its node and the node's number."""
    weights = {tensor.name for tensor in graph.initializer}
    views: dict[str, tuple[int, onnx.NodeProto]] = {}
    for i, node in enumerate(graph.node):
        if node.op_type in KEPT_ON_WEIGHTS and node.input and (node.input[0] in weights or node.input[0] in views):
            views[node.output[0]] = (i, node)
    return views


def _reading_copies(
    node: onnx.NodeProto, views: set[str], claimed: set[str], names: set[str], copies: dict[str, list[str]]
) -> onnx.NodeProto:
    """A node that reads views that no other does: those that are claimed already become copies, added to `copies`."""
    slots = [slot for slot, name in enumerate(node.input) if name in views and name in claimed]
    claimed.update(name for name in node.input if name in views)
    if not slots:
        return node
    changed = deepcopy(node)
    for slot in slots:
        original = node.input[slot]
        numbers = count(len(copies[original]) + 1)
        copy = next(name for k in numbers if (name := f"{original}/view{k}") not in names)
        names.add(copy)
        copies[original].append(copy)
        changed.input[slot] = copy
    return changed


def _renamed(node: onnx.NodeProto, output: str) -> onnx.NodeProto:
    copy = deepcopy(node)
    copy.name = copy.output[0] = output
    return copy
