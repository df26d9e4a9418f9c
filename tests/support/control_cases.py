"""Subgraphs for tests, and cases of control flow (see `rule_cases.py`)."""

from __future__ import annotations

import numpy as np
import onnx
from onnx import TensorProto, helper

from models import Builder
from rule_cases import C, S, case


def info(name: str, shape: list[int | str] | None, kind: int = TensorProto.FLOAT) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, kind, shape)


def body(b: Builder, name: str, inputs: list[onnx.ValueInfoProto], outputs: dict[str, int]) -> onnx.GraphProto:
    """What was built since `outside` becomes a subgraph; `outputs` maps names to types."""
    outputs_info = [info(output, None, kind) for output, kind in outputs.items()]
    graph = helper.make_graph(b.nodes, name, inputs, outputs_info, b.initializers)
    b.nodes, b.initializers = [], []
    return graph


@case("If")
def branched(b: Builder, x: str) -> tuple[str, int]:
    condition = b.node("Greater", [b.node("ReduceMean", ["x"], keepdims=0), b.constant("zero", np.float32(0))])
    outer, b.nodes, b.initializers = (b.nodes, b.initializers), [], []
    graphs = []
    for branch, width in (("then", 10), ("else", 6)):
        y = b.conv(b.relu(b.conv(x, C, width, name=f"{branch}_a")), width, 5, name=f"{branch}_b")
        graphs.append(body(b, branch, [], {y: TensorProto.FLOAT}))
    b.nodes, b.initializers = outer
    b.nodes.append(helper.make_node("If", [condition], ["y"], name="if", then_branch=graphs[0], else_branch=graphs[1]))
    return "y", 5


@case("Loop")
def repeated(b: Builder, x: str) -> tuple[str, int]:
    bounds = [b.constant("times", np.array(2)), b.constant("true", np.array(True))]
    outer, b.nodes, b.initializers = (b.nodes, b.initializers), [], []
    y = b.node("Add", ["state", b.conv(b.relu(b.conv("state", C, 9, name="wide")), 9, C, name="narrow")])
    b.node("Identity", ["going"], output="go_on")
    inputs = [info("turn", [], TensorProto.INT64), info("going", [], TensorProto.BOOL), info("state", [1, C, S, S])]
    graph = body(b, "block", inputs, {"go_on": TensorProto.BOOL, y: TensorProto.FLOAT})
    b.nodes, b.initializers = outer
    b.nodes.append(helper.make_node("Loop", [*bounds, x], ["y"], name="loop", body=graph))
    return "y", C


@case("Scan")
def scanned(b: Builder, x: str) -> tuple[str, int]:
    outer, b.nodes, b.initializers = (b.nodes, b.initializers), [], []
    hidden = b.node("Tanh", [b.node("MatMul", ["row", b.random("hidden.weight", (S, 9), S)], "hidden")])
    y = b.node("MatMul", [hidden, b.random("out.weight", (9, S), 9)], "out")
    graph = body(b, "each", [info("row", [1, S, S])], {y: TensorProto.FLOAT})
    b.nodes, b.initializers = outer
    rows = helper.make_node(
        "Scan", [x], ["y"], name="scan", body=graph, num_scan_inputs=1, scan_input_axes=[1], scan_output_axes=[1]
    )
    b.nodes.append(rows)
    return "y", C


@case("Shape", "Size")
def sizes(b: Builder, x: str) -> tuple[str, int]:
    """Folded here; they stay where sizes do (`test_free_axes.py`)."""
    target = b.node("Concat", [b.node("Shape", [x], end=2), b.node("Shape", ["x"], start=2)], axis=0)
    return b.node("Reshape", [x, target]), C
