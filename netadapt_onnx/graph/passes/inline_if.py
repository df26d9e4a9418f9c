"""If nodes whose condition has one value, whatever the inputs are: the branch that runs takes their place."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

import numpy as np
import onnx

from netadapt_onnx.graph.nodes import attribute, rename, replace_all
from netadapt_onnx.graph.passes.result import PassResult


def inline_if(proto: onnx.ModelProto, conditions: Mapping[str, np.ndarray]) -> PassResult[onnx.ModelProto]:
    """Replace every If of the main graph whose condition has a value by the branch that runs, in place.

    Those inside the branches come up to the graph with them and are not looked at: the next run's turn.

    Args:
        proto: the model; conditions that are initializers of it have a value.
        conditions: further values by the names of conditions.
    """
    graph = proto.graph
    names = {node.input[0] for node in graph.node if node.op_type == "If"} - conditions.keys()
    values = dict(conditions) | {t.name: onnx.numpy_helper.to_array(t) for t in graph.initializer if t.name in names}
    count_by_name = Counter(node.name for node in graph.node)
    nodes: list[onnx.NodeProto] = []
    changed = False
    for node in graph.node:
        if node.op_type == "If" and node.input[0] in values:
            branch = "then_branch" if bool(values[node.input[0]].reshape(-1)[0]) else "else_branch"
            is_unique = node.name and count_by_name[node.name] == 1
            nodes += _inlined(graph, node, branch, node.name if is_unique else node.output[0])
            changed = True
        else:
            nodes.append(node)
    if changed:
        replace_all(graph.node, nodes)
    return PassResult(proto, changed)


def _inlined(graph: onnx.GraphProto, conditional: onnx.NodeProto, branch: str, prefix: str) -> list[onnx.NodeProto]:
    """The nodes of a branch, their names behind a prefix; its initializers become the graph's."""
    body = attribute(conditional, branch)
    local = {t.name for t in body.initializer} | {name for n in body.node for name in n.output if name}
    renamed = {name: f"{prefix}/{name}" for name in local}
    # Identity keeps both names when the branch returns an outer tensor; `remove_identity` takes out what it can.
    ends = [
        onnx.helper.make_node("Identity", [renamed.get(inner.name, inner.name)], [outer], name=outer)
        for inner, outer in zip(body.output, conditional.output, strict=False)
        if outer
    ]
    for tensor in body.initializer:
        added = graph.initializer.add()
        added.CopyFrom(tensor)
        added.name = renamed[tensor.name]
    nodes = [onnx.NodeProto.FromString(n.SerializeToString()) for n in body.node]
    for node in nodes:
        node.name = f"{prefix}/{node.name}" if node.name else ""
        rename(node, renamed)
    return [*nodes, *ends]
