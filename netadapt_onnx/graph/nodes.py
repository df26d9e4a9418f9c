"""Single nodes: their names, what they read, and which operators are ONNX's own."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import onnx

from netadapt_onnx.graph.subgraphs import captured

# The names of the domain of ONNX's own operators.
STANDARD = ("", "ai.onnx")
# Operators that look at the shape of what they read, never at its values.
READS_SHAPE_ONLY = {"Shape", "Size"}


def node_name(node: onnx.NodeProto) -> str:
    """A node's name; one without is called after its first output."""
    return node.name or next((name for name in node.output if name), node.op_type)


def is_standard(node: onnx.NodeProto, *operators: str) -> bool:
    """Whether a node is of one of these operators of ONNX's own domain, or of any of them where none are listed."""
    return node.domain in STANDARD and (not operators or node.op_type in operators)


def reads(node: onnx.NodeProto) -> list[str]:
    """The names of all tensors that a node reads, its subgraphs included."""
    return [name for name in [*node.input, *captured(node)] if name]


def opset_version(proto: onnx.ModelProto, default: int = 1) -> int:
    """The version of ONNX's own operators that a model imports, `default` where it names none."""
    return max((entry.version for entry in proto.opset_import if entry.domain in STANDARD), default=default)


def set_nodes(graph: onnx.GraphProto, nodes: Iterable[onnx.NodeProto]) -> None:
    """Give a graph other nodes, which may be some of its own."""
    copies = [onnx.NodeProto.FromString(node.SerializeToString()) for node in nodes]
    del graph.node[:]
    graph.node.extend(copies)


def keep_nodes(graph: onnx.GraphProto, kept: Sequence[onnx.NodeProto]) -> bool:
    """Drop all nodes of a graph but some; whether there are any others."""
    changed = len(kept) < len(graph.node)
    if changed:
        set_nodes(graph, kept)
    return changed
