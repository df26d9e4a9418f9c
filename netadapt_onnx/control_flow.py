"""If nodes whose condition is already decided."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import onnx

from netadapt_onnx.normalise import normalise_graph
from netadapt_onnx.subgraphs import rename


def inline_decided(graph: onnx.GraphProto, values: Mapping[str, np.ndarray]) -> bool:
    """Replace each If whose condition is known by the branch taken; True if there was one."""
    constants = {t.name: t for t in graph.initializer}
    for index, node in enumerate(graph.node):
        if node.op_type != "If":
            continue
        name = node.input[0]
        if name in values:
            condition = bool(values[name].reshape(-1)[0])
        elif name in constants:
            condition = bool(onnx.numpy_helper.to_array(constants[name]).reshape(-1)[0])
        else:
            continue
        _inline(graph, index, "then_branch" if condition else "else_branch")
        normalise_graph(graph)
        return True
    return False


def _inline(graph: onnx.GraphProto, index: int, branch: str) -> None:
    nodes = [onnx.NodeProto.FromString(n.SerializeToString()) for n in graph.node]
    taken = nodes[index]
    body = next(a.g for a in taken.attribute if a.name == branch)
    prefix = taken.name or taken.output[0]
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
    del graph.node[:]
    graph.node.extend([*nodes[:index], *inlined, *ends, *nodes[index + 1 :]])
