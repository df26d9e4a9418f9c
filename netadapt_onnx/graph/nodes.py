"""Single nodes and their subgraphs: names, what they read, and which operators are ONNX's own."""

from __future__ import annotations

from collections.abc import Container, Iterable, Iterator, Mapping, Sequence, Set
from itertools import chain, count
from typing import Any

import onnx


def subgraphs_of(node: onnx.NodeProto) -> list[onnx.GraphProto]:
    """The subgraphs of a node (If branches, Loop and Scan bodies)."""
    return [graph for a in node.attribute for graph in ([a.g, *a.graphs] if a.HasField("g") else a.graphs)]


def captured(node: onnx.NodeProto) -> list[str]:
    """Names that a node's subgraphs read from the graphs around them, without repetition."""
    return list(dict.fromkeys(name for body in subgraphs_of(node) for name in reads_from_outside(body)))


def reads_from_outside(body: onnx.GraphProto) -> list[str]:
    """Names that a subgraph reads from the graphs around it, without repetition."""
    names: dict[str, None] = {}
    own = {v.name for v in body.input} | {t.name for t in body.initializer} | {""}
    for inner in body.node:
        names.update(dict.fromkeys(name for name in [*inner.input, *captured(inner)] if name not in own))
        own.update(inner.output)
    names.update(dict.fromkeys(v.name for v in body.output if v.name not in own))
    return list(names)


def all_subgraphs(nodes: Iterable[onnx.NodeProto]) -> Iterator[onnx.GraphProto]:
    """The subgraphs of nodes at any depth."""
    for node in nodes:
        for body in subgraphs_of(node):
            yield body
            yield from all_subgraphs(body.node)


def all_nodes(nodes: Iterable[onnx.NodeProto]) -> Iterator[onnx.NodeProto]:
    """Nodes and those of their subgraphs at any depth."""
    for node in nodes:
        yield node
        for body in subgraphs_of(node):
            yield from all_nodes(body.node)


def rename(node: onnx.NodeProto, names: Mapping[str, str], hidden: Set[str] = frozenset()) -> None:
    """Give tensors other names, in place, also where subgraphs of the node read them; those of `hidden` keep theirs."""
    for names_of in (node.input, node.output):
        for i, name in enumerate(names_of):
            if name in names and name not in hidden:
                names_of[i] = names[name]
    for body in subgraphs_of(node):
        own = {v.name for v in body.input} | {t.name for t in body.initializer} | hidden
        own |= {name for inner in body.node for name in inner.output}
        for inner in body.node:
            rename(inner, names, own)
        for value in body.output:
            if value.name in names and value.name not in own:
                value.name = names[value.name]


# The names of the domain of ONNX's own operators.
STANDARD = ("", "ai.onnx")
# Operators that look at the shape of what they read, never at its values.
READS_SHAPE_ONLY = {"Shape", "Size"}


def node_name(node: onnx.NodeProto) -> str:
    """A node's name; one without is called after its first output."""
    return node.name or next((name for name in node.output if name), node.op_type)


def domain_of(message: onnx.NodeProto | onnx.OperatorSetIdProto) -> str:
    """The domain of a node or an opset import, which is '' for ONNX's own operators."""
    return "" if message.domain in STANDARD else str(message.domain)


def attribute(node: onnx.NodeProto, name: str, default: Any = None) -> Any:
    """The value of a node's attribute, `default` where it has none of this name."""
    return next((onnx.helper.get_attribute_value(a) for a in node.attribute if a.name == name), default)


def is_standard(node: onnx.NodeProto, *operators: str) -> bool:
    """Whether a node is of one of these operators of ONNX's own domain, or of any of them where none are listed."""
    return node.domain in STANDARD and (not operators or node.op_type in operators)


def reads(node: onnx.NodeProto) -> list[str]:
    """The names of all tensors that a node reads, its subgraphs included."""
    return [name for name in [*node.input, *captured(node)] if name]


def opset_version(proto: onnx.ModelProto, default: int = 1) -> int:
    """The version of ONNX's own operators that a model imports, `default` where it names none."""
    return max((entry.version for entry in proto.opset_import if entry.domain in STANDARD), default=default)


def unused_name(base: str, used: Container[str]) -> str:
    """A name that is not `used`, `base` if that is free."""
    return next(name for name in chain([base], (f"{base}_{i}" for i in count(1))) if name not in used)


def replace_all(field: Any, messages: Iterable[Any]) -> None:
    """Give a repeated field of a message other members, which may be some of its own."""
    copies = [type(message).FromString(message.SerializeToString()) for message in messages]
    del field[:]
    field.extend(copies)


def keep_only(field: Any, kept: Sequence[Any]) -> bool:
    """Drop all members of a repeated field but some; whether there are any others."""
    changed = len(kept) < len(field)
    if changed:
        replace_all(field, kept)
    return changed
