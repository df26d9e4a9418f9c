"""Loops that are run for nothing but a shape or a comparison: a file of a hundred bytes may ask for 10^9 rounds.

Only running a Loop or a Scan shows how many rounds it takes. So its body counts, and fails beyond a limit: one
rule for every such run, which does not depend on how fast the machine is. Loops inside loops share the limit: the
numbers of their rounds multiply.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Set
from itertools import count

import numpy as np
import onnx
from onnx import numpy_helper

from netadapt_onnx.graph.nodes import all_nodes, attribute, is_standard, opset_version, replace_all, subgraphs_of

# Rounds of one loop, fewer where its body is long: so many nodes are run at most.
MOST_TRIPS = 1 << 16
MOST_NODE_RUNS = 1 << 20
# A loop of any body may run this often: decoders and recurrent layers do.
FEWEST_TRIPS = 1 << 10
# The name of the node that fails begins so; onnxruntime's message repeats it.
MARK = "trip limit "
_NONE, _ONE, _TWO, _FIRST = (f"{MARK}{what}" for what in ("none", "one", "two", "first"))
COUNTED_SCAN_OPSET = 9


def limit_trips(proto: onnx.ModelProto) -> None:
    """Have every Loop and Scan of a model, at any depth, fail beyond the limit, in place.

    The name of the node that fails begins with `MARK` and the limit. Scans of opset 8 have another form and stay.
    """
    graph = proto.graph
    limited = {"Loop", "Scan"} if opset_version(proto) >= COUNTED_SCAN_OPSET else {"Loop"}
    if not any(node.op_type in limited for node in all_nodes(graph.node)):
        return
    names = (f"{MARK}tensor {i}" for i in count())
    for node in graph.node:
        _limit(node, None, _most_trips(node), names, limited)
    for name, value in ((_NONE, 0), (_ONE, 1), (_TWO, 2), (_FIRST, [0])):
        graph.initializer.append(numpy_helper.from_array(np.array(value, np.int64), name))


def exceeded(message: str) -> int | None:
    """The limit that a run exceeded, if that is what onnxruntime says of its failure."""
    match = re.search(f"{MARK}(\\d+)", message)
    return None if match is None else int(match[1])


def _most_trips(node: onnx.NodeProto) -> int:
    """How often a loop may go round, one inside another included."""
    size = sum(1 for _ in all_nodes([node])) - 1
    return max(FEWEST_TRIPS, min(MOST_TRIPS, MOST_NODE_RUNS // max(size, 1)))


def _limit(node: onnx.NodeProto, around: str | None, most: int, names: Iterator[str], limited: Set[str]) -> None:
    """`around`: the tensor with the product of the numbers of the rounds that the loops around the node are in."""
    inner = around
    if is_standard(node, *limited):
        body = attribute(node, "body")
        if body is None or (node.op_type == "Loop" and not body.input):
            return  # no valid loop: onnxruntime says so
        earlier = body.input[0].name if node.op_type == "Loop" else _counter(node, body, names)
        inner = _count(body, earlier, around, most, names)
    for body in subgraphs_of(node):
        for each in body.node:
            _limit(each, inner, most, names, limited)


def _count(body: onnx.GraphProto, earlier: str, around: str | None, most: int, names: Iterator[str]) -> str:
    """Put in front of a body what fails in the first round beyond the limit; `earlier` is how many went before."""
    trip, quotient, end = next(names), next(names), next(names)
    make = onnx.helper.make_node
    nodes = [make("Add", [earlier, _ONE], [trip])]
    if around is not None:  # twice: else a dozen loops inside one another would have too many rounds all the same
        twice, product = next(names), next(names)
        nodes.append(make("Mul", [trip, _TWO], [twice]))
        nodes.append(make("Mul", [twice, around], [product]))
        trip = product
    nodes.append(make("Div", [trip, end], [quotient]))
    nodes.append(make("Gather", [_FIRST, quotient], [next(names)], name=f"{MARK}{most} {trip}"))
    body.initializer.append(numpy_helper.from_array(np.array(most + 1, np.int64), end))
    replace_all(body.node, [*nodes, *body.node])
    return trip


def _counter(node: onnx.NodeProto, body: onnx.GraphProto, names: Iterator[str]) -> str:
    """Give a Scan, which has no number of its round, a state that counts them."""
    before, after, total = (next(names) for _ in range(3))
    node.input.insert(0, _NONE)
    node.output.insert(0, total)
    for values, name in ((body.input, before), (body.output, after)):
        values.insert(0, onnx.helper.make_tensor_value_info(name, onnx.TensorProto.INT64, []))
    body.node.append(onnx.helper.make_node("Add", [before, _ONE], [after]))
    return before
