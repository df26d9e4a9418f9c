"""If nodes whose condition is already decided."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

import numpy as np
import onnx

from netadapt_onnx.graph.normalise import normalise_graph
from netadapt_onnx.graph.subgraphs import rename


def inline_decided(graph: onnx.GraphProto, values: Mapping[str, np.ndarray]) -> bool:
    """Replace every If whose condition is known by the branch taken; True if there was one.

    Those inside the branches come up to the graph with them and are not looked at: their turn is the next.
    """
    conditions = [node.input[0] for node in graph.node if node.op_type == "If"]
    if not conditions:
        return False
    wanted = {*conditions} - values.keys()
    known = dict(values) | {t.name: onnx.numpy_helper.to_array(t) for t in graph.initializer if t.name in wanted}
    names = Counter(node.name for node in graph.node)
    nodes: list[onnx.NodeProto] = []
    decided = False
    for node in graph.node:
        if node.op_type == "If" and node.input[0] in known:
            branch = "then_branch" if bool(known[node.input[0]].reshape(-1)[0]) else "else_branch"
            alone = names[node.name] == 1
            nodes += _taken(graph, node, branch, node.name if node.name and alone else node.output[0])
            decided = True
        else:
            nodes.append(onnx.NodeProto.FromString(node.SerializeToString()))
    if decided:
        del graph.node[:]
        graph.node.extend(nodes)
        normalise_graph(graph)
    return decided


def _taken(graph: onnx.GraphProto, taken: onnx.NodeProto, branch: str, prefix: str) -> list[onnx.NodeProto]:
    """The nodes of a branch under names that say where they were; its initializers become the graph's."""
    body = next(a.g for a in taken.attribute if a.name == branch)
    local = {t.name for t in body.initializer} | {name for n in body.node for name in n.output if name}
    renamed = {name: f"{prefix}/{name}" for name in local}
    ends = []
    for inner, outer in zip(body.output, taken.output, strict=False):
        if not outer:
            continue
        # Identity keeps both names when the branch returns an outer tensor; normalising removes it where it can.
        source = renamed.get(inner.name, inner.name)
        ends.append(onnx.helper.make_node("Identity", [source], [outer], name=outer))
    for tensor in body.initializer:
        added = graph.initializer.add()
        added.CopyFrom(tensor)
        added.name = renamed[tensor.name]
    inlined = [onnx.NodeProto.FromString(n.SerializeToString()) for n in body.node]
    for inner_node in inlined:
        inner_node.name = f"{prefix}/{inner_node.name}" if inner_node.name else ""
        rename(inner_node, renamed)
    return [*inlined, *ends]
