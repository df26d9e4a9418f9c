"""Loops that carry a value which never changes (TensorFlow's exports carry their weights so) read it from outside."""

from __future__ import annotations

import onnx

from netadapt_onnx.graph.subgraphs import rename

FIRST_CARRIED = 2  # a Loop's inputs: trip count, condition, carried values; its body puts out the condition first


def hoist_loop_invariants(graph: onnx.GraphProto) -> None:
    """Take values that a Loop's body returns as it received them out of what the Loop carries, in place."""
    kept = {value.name for value in graph.output}
    replaced: dict[str, str] = {}
    for node in graph.node:
        if node.op_type != "Loop" or node.domain not in ("", "ai.onnx"):
            continue
        body = next(a.g for a in node.attribute if a.name == "body")
        passed = {n.output[0]: n.input[0] for n in body.node if n.op_type == "Identity"}
        own = {v.name for v in body.input} | {t.name for t in body.initializer}
        own |= {name for inner in body.node for name in inner.output}
        captured: dict[str, str] = {}
        for i in reversed(range(len(node.input) - FIRST_CARRIED)):
            start, formal = node.input[FIRST_CARRIED + i], body.input[FIRST_CARRIED + i].name
            outer = replaced.get(start, start)  # an earlier loop may have carried it too
            returned = body.output[1 + i].name
            if passed.get(returned, returned) != formal or (i < len(node.output) and node.output[i] in kept):
                continue
            if not outer or outer in own:  # it means something else inside
                continue
            captured[formal] = outer
            own.discard(formal)
            del body.input[FIRST_CARRIED + i], body.output[1 + i], node.input[FIRST_CARRIED + i]
            if i < len(node.output):
                replaced[node.output[i]] = outer
                del node.output[i]
        for inner in body.node if captured else ():
            rename(inner, captured)
    replaced.pop("", None)
    for node in graph.node if replaced else ():
        rename(node, replaced)
