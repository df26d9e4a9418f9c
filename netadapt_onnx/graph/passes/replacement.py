"""Nodes of a folded model replaced by others that compute the same."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import onnx
from onnx import numpy_helper

from netadapt_onnx.graph.folded_model import FoldedModel
from netadapt_onnx.graph.nodes import captured
from netadapt_onnx.graph.passes.result import PassResult
from netadapt_onnx.graph.shapes import Shape
from netadapt_onnx.graph.weightless import without_weights


@dataclass(frozen=True)
class Replacement:
    """Nodes that stand in for one node, and their constants; `shapes` are of tensors between them."""

    nodes: Sequence[onnx.NodeProto]
    constants: Sequence[onnx.TensorProto] = ()
    shapes: Mapping[str, Shape] = field(default_factory=dict)


# By the first output of the node that is replaced.
Replacements = Mapping[str, Replacement]


def first_output(node: onnx.NodeProto) -> str:
    """The name under which a node is replaced: that of the first tensor that it puts out."""
    return next(filter(None, node.output), "")


def remaining_nodes(graph: onnx.GraphProto, replacements: Replacements) -> tuple[list[onnx.NodeProto], set[str]]:
    """The nodes after replacing, without those that nothing reads any more, and the names of all that they read."""
    needed = {value.name for value in graph.output}
    kept: list[onnx.NodeProto] = []
    for node in reversed(graph.node):
        replacement = replacements.get(first_output(node))
        for each in reversed(replacement.nodes) if replacement is not None else [node]:
            if not needed.isdisjoint(each.output):
                kept.append(each)
                needed.update([*each.input, *captured(each)])
    return kept[::-1], needed


def replace_nodes(folded: FoldedModel, replacements: Replacements) -> PassResult[FoldedModel]:
    """The model with some nodes replaced, and without the nodes and constants that nothing reads any more."""
    if not replacements:
        return PassResult(folded, False)
    old = folded.proto.graph
    kept, needed = remaining_nodes(old, replacements)
    proto = without_weights(folded.proto)
    del proto.graph.node[:]
    proto.graph.node.extend(kept)
    added = [tensor for replacement in replacements.values() for tensor in replacement.constants]
    proto.graph.initializer.extend(tensor for tensor in old.initializer if tensor.name in needed)
    proto.graph.initializer.extend(added)
    unread = set(folded.shapes) - needed - {name for node in kept for name in node.output} - set(folded.specs)
    arrays = {tensor.name: numpy_helper.to_array(tensor) for tensor in added}
    shapes = {k: v for k, v in folded.shapes.items() if k not in unread} | {k: v.shape for k, v in arrays.items()}
    dtypes = {k: v for k, v in folded.dtypes.items() if k not in unread} | {k: v.dtype for k, v in arrays.items()}
    for result, replacement in replacements.items():
        shapes |= replacement.shapes
        dtypes |= dict.fromkeys(replacement.shapes, folded.dtypes[result])
    return PassResult(replace(folded, proto=proto, shapes=shapes, dtypes=dtypes), True)
