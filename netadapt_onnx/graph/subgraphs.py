"""Subgraphs of nodes: what they are, what they read from outside, and their tensors under other names."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Set

import onnx


def subgraphs_of(node: onnx.NodeProto) -> list[onnx.GraphProto]:
    """The subgraphs of a node (If branches, Loop and Scan bodies)."""
    graphs = []
    for attribute in node.attribute:
        if attribute.HasField("g"):
            graphs.append(attribute.g)
        graphs.extend(attribute.graphs)
    return graphs


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
