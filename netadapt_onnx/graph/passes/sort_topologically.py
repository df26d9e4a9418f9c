"""Nodes in an order in which each stands behind those whose outputs it reads."""

from __future__ import annotations

import graphlib
from collections.abc import Iterable

import onnx

from netadapt_onnx.errors import NetadaptError
from netadapt_onnx.graph.nodes import captured, node_name, replace_all
from netadapt_onnx.graph.passes.result import PassResult


def sort_topologically(proto: onnx.ModelProto, constants: Iterable[str]) -> PassResult[onnx.ModelProto]:
    """Sort the nodes of the main graph in place; a graph that is in order stays as it is.

    Args:
        proto: the model, which need not hold its initializers.
        constants: the names of its initializers.

    Raises:
        NetadaptError: for a cycle, and for a tensor or an output that nothing produces.
    """
    graph = proto.graph
    producer = {name: i for i, node in enumerate(graph.node) for name in node.output if name}
    available = {*constants} | {v.name for v in graph.input} | {""}
    sources: dict[int, list[int]] = {}
    for i, node in enumerate(graph.node):
        names = [*node.input, *captured(node)]
        missing = [name for name in names if name not in producer and name not in available]
        if missing:
            raise NetadaptError(f"nothing produces tensor '{missing[0]}'", node=node_name(node), code="not-onnx")
        sources[i] = [producer[name] for name in names if name in producer]
    open_end = next((v.name for v in graph.output if v.name not in producer and v.name not in available), None)
    if open_end is not None:
        raise NetadaptError(f"nothing produces the output '{open_end}'", code="not-onnx")
    if all(j < i for i, js in sources.items() for j in js):
        return PassResult(proto, False)
    try:
        order = list(graphlib.TopologicalSorter(sources).static_order())
    except graphlib.CycleError as error:
        raise NetadaptError("the graph has a cycle", node=node_name(graph.node[error.args[1][0]])) from error
    replace_all(graph.node, [graph.node[i] for i in order])
    return PassResult(proto, True)
