"""Loops that carry a value which never changes (TensorFlow's exports carry their weights so) read it from outside."""

from __future__ import annotations

from collections.abc import Set

import onnx

from netadapt_onnx.graph.nodes import attribute, is_standard, rename
from netadapt_onnx.graph.passes.result import PassResult

FIRST_CARRIED = 2  # a Loop's inputs: trip count, condition, carried values; its body puts out the condition first


def hoist_loop_invariants(proto: onnx.ModelProto) -> PassResult[onnx.ModelProto]:
    """Take values that a Loop's body returns as it received them out of what the Loop carries, in place."""
    graph = proto.graph
    outputs = {value.name for value in graph.output}
    replaced: dict[str, str] = {}
    changed = False
    for node in graph.node:
        if is_standard(node, "Loop"):
            changed |= _hoist(node, outputs, replaced)
    replaced.pop("", None)
    for node in graph.node if replaced else ():
        rename(node, replaced)
    return PassResult(proto, changed)


def _hoist(loop: onnx.NodeProto, outputs: Set[str], replaced: dict[str, str]) -> bool:
    """Hoist the invariants of one loop; whether it has any.

    `replaced` maps what loops put out to what stands for it, `outputs` are the graph's, which keep their names.
    """
    body = attribute(loop, "body")
    passed = {n.output[0]: n.input[0] for n in body.node if n.op_type == "Identity"}
    own = {v.name for v in body.input} | {t.name for t in body.initializer}
    own |= {name for inner in body.node for name in inner.output}
    outer_names: dict[str, str] = {}
    for i in reversed(range(len(loop.input) - FIRST_CARRIED)):
        start, formal = loop.input[FIRST_CARRIED + i], body.input[FIRST_CARRIED + i].name
        outer = replaced.get(start, start)  # an earlier loop may have carried it too
        returned = body.output[1 + i].name
        if passed.get(returned, returned) != formal or (i < len(loop.output) and loop.output[i] in outputs):
            continue
        if not outer or outer in own:  # it means something else inside
            continue
        outer_names[formal] = outer
        own.discard(formal)
        del body.input[FIRST_CARRIED + i], body.output[1 + i], loop.input[FIRST_CARRIED + i]
        if i < len(loop.output):
            replaced[loop.output[i]] = outer
            del loop.output[i]
    for inner in body.node if outer_names else ():
        rename(inner, outer_names)
    return bool(outer_names)
