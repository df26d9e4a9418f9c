"""Layers inside If branches and loop bodies are cut like all others, and put back where they were."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

import models
from control_cases import body, info
from netadapt_onnx.graph.passes.pipeline import normalise
from netadapt_onnx.graph.runtime import random_inputs, run, session
from netadapt_onnx.surgery.criteria.selection import select
from netadapt_onnx.surgery.resize import resize
from netadapt_onnx.surgery.verify.prove import verify
from tracing import trace_model

SIZE = 6
FLOAT, BOOL = TensorProto.FLOAT, TensorProto.BOOL


def branches() -> onnx.ModelProto:
    """Two branches of different widths read conv1's channels; which one is taken depends on the input."""
    b = models.Builder()
    x = b.conv("x", 3, 8, name="stem")
    outer = b.nodes, b.initializers
    graphs = []
    for name, width in (("then", 10), ("else", 6)):
        b.nodes, b.initializers = [], []
        y = b.conv(b.relu(b.conv(x, 8, width, name=f"{name}_a")), width, 5, name=f"{name}_b")
        graphs.append(body(b, name, [], {y: FLOAT}))
    b.nodes, b.initializers = outer
    mean = b.node("ReduceMean", ["x"], keepdims=0)
    condition = b.node("Greater", [mean, b.constant("zero", np.float32(0))])
    b.nodes.append(
        helper.make_node("If", [condition], ["y"], name="choose", then_branch=graphs[0], else_branch=graphs[1])
    )
    b.head("y", 5)
    return b.model({"x": ("N", 3, SIZE, SIZE)}, {"logits": ("N", 10)})


def loop() -> onnx.ModelProto:
    """A block of two convs applied three times to what it put out before."""
    b = models.Builder()
    y = b.node("Add", ["state", b.conv(b.relu(b.conv("state", 4, 12, name="wide")), 12, 4, name="narrow")])
    b.node("Identity", ["going"], output="go_on")
    inputs = [info("turn", [], TensorProto.INT64), info("going", [], BOOL), info("state", ["N", 4, SIZE, SIZE])]
    repeated = body(b, "block", inputs, {"go_on": BOOL, y: FLOAT})
    x = b.conv("x", 3, 4, name="stem")
    bounds = [b.constant("times", np.array(3)), b.constant("true", np.array(True))]
    b.nodes.append(helper.make_node("Loop", [*bounds, x], ["y"], name="repeat", body=repeated))
    b.head(b.conv("y", 4, 8, name="last"), 8)
    return b.model({"x": ("N", 3, SIZE, SIZE)}, {"logits": ("N", 10)})


def recurrent() -> onnx.ModelProto:
    """An RNN as TensorFlow exports it: a Loop that carries its weights along, and its state from zeros."""
    b = models.Builder()
    x = b.node("Gather", ["x", "turn"], axis=0)
    new = b.node("Add", [b.node("MatMul", ["state", "u"], "U"), b.node("MatMul", [x, "w"], "W")])
    new = b.node("Tanh", [new])
    for name in ("w", "u", "going"):
        b.node("Identity", [name], output=f"{name}_on")
    inputs = [info("turn", [], TensorProto.INT64), info("going", [], BOOL), info("state", ["N", 8])]
    inputs += [info("w", [5, 8]), info("u", [8, 8])]
    collected = b.node("Identity", [new])
    outputs = {"going_on": BOOL, new: FLOAT, "w_on": FLOAT, "u_on": FLOAT, collected: FLOAT}
    cell = body(b, "cell", inputs, outputs)
    weights = [b.random("w0", (5, 8), 5), b.random("u0", (8, 8), 8)]
    bounds = [b.constant("times", np.array(7)), b.constant("true", np.array(True))]
    zeros = b.constant("zeros", np.zeros((2, 8), np.float32))
    loop_outputs = ["last_state", "w1", "u1", "all"]
    b.nodes.append(helper.make_node("Loop", [*bounds, zeros, *weights], loop_outputs, name="step", body=cell))
    y = b.node("MatMul", ["all", b.random("out.weight", (8, 6), 8)], "out")
    b.node("MatMul", [y, b.random("head.weight", (6, 3), 6)], "head")
    return b.model({"x": (7, 2, 5)}, {"head_out": (7, 2, 3)})


def scan() -> onnx.ModelProto:
    """A two-layer network applied to each row, its second half outside."""
    b = models.Builder()
    weight = b.random("hidden.weight", (5, 9), 5)
    hidden = b.node("Tanh", [b.node("MatMul", ["row", weight], "hidden")])
    y = b.node("MatMul", [hidden, b.random("out.weight", (9, 4), 9)], "out")
    each = body(b, "each", [info("row", [2, 5])], {y: FLOAT})
    b.nodes.append(helper.make_node("Scan", ["x"], ["y"], name="rows", body=each, num_scan_inputs=1))
    b.node("MatMul", ["y", b.random("last.weight", (4, 3), 4)], "last")
    return b.model({"x": (7, 2, 5)}, {"last_out": (7, 2, 3)})


EXPECTED: dict[str, tuple[Callable[[], onnx.ModelProto], dict[str, int]]] = {
    # What both branches return is one group, and so is what a loop carries with the conv that it starts from.
    "if": (
        branches,
        {"stem": 8, "choose/else_branch/else_a": 6, "choose/else_branch/else_b": 5, "choose/then_branch/then_a": 10},
    ),
    "loop": (loop, {"stem": 4, "repeat/body/wide": 12, "last": 8}),
    "scan": (scan, {"rows/body/hidden": 9, "rows/body/out": 4}),
    "recurrent": (recurrent, {"step/body/U": 8, "out": 6}),
}


@pytest.mark.parametrize("name", EXPECTED)
def test_pruning_equals_masking_inside_bodies(name: str) -> None:
    build, groups = EXPECTED[name]
    traced = trace_model(build())
    assert {g.name: g.channels for g in traced.prunable} == groups
    keep = select(traced, {g: n // 2 for g, n in groups.items()}, "random")
    pruned = resize(traced, keep)
    onnx.checker.check_model(pruned, full_check=True)
    proof = verify(traced, keep, pruned=pruned)
    assert proof.exact and not proof.inexact_groups, proof
    assert pruned.ByteSize() < traced.folded.proto.ByteSize()


@pytest.mark.parametrize("name", EXPECTED)
def test_an_uncut_body_computes_what_it_did(name: str) -> None:
    proto = EXPECTED[name][0]()
    traced = trace_model(proto)
    inputs = random_inputs(traced.folded.specs)
    output = proto.graph.output[0].name
    expected = run(session(proto), inputs, [output])[output]
    np.testing.assert_array_equal(run(session(resize(traced, {})), inputs, [output])[output], expected)


@pytest.mark.parametrize("branch", ["then", "else"])
def test_a_wrong_cut_in_either_branch_is_caught(branch: str) -> None:
    traced = trace_model(branches())
    keep = select(traced, {f"choose/{branch}_branch/{branch}_a": 4}, "random")
    pruned = resize(traced, keep)
    graph = next(a.g for n in pruned.graph.node for a in n.attribute if a.name == f"{branch}_branch")
    weight = next(t for t in graph.initializer if t.name == f"{branch}_b.weight")
    values = onnx.numpy_helper.to_array(weight)
    weight.CopyFrom(onnx.numpy_helper.from_array(np.ascontiguousarray(values[:, ::-1]), weight.name))
    assert not verify(traced, keep, pruned=pruned).exact


def test_a_weight_that_several_loops_carry_on_is_read_from_where_it_is() -> None:
    """The second loop receives it from the first, and a layer from the second."""
    b = models.Builder()
    first = b.random("w0", (4, 4), 4)
    bounds = [b.constant("times", np.array(2)), b.constant("true", np.array(True))]
    nodes, initializers = b.nodes, b.initializers
    state, weight = "x", first
    for i in range(2):
        b.nodes, b.initializers = [], []
        y = b.node("Tanh", [b.node("MatMul", [f"s{i}", f"w{i}in"])])
        for name in (f"go{i}", f"w{i}in"):
            b.node("Identity", [name], output=f"{name}_on")
        inputs = [info(f"turn{i}", [], TensorProto.INT64), info(f"go{i}", [], BOOL), info(f"s{i}", [3, 4])]
        outputs = {f"go{i}_on": BOOL, y: FLOAT, f"w{i}in_on": FLOAT}
        cell = body(b, f"cell{i}", [*inputs, info(f"w{i}in", [4, 4])], outputs)
        loop_outputs = [f"state{i}", f"weight{i}"]
        nodes.append(helper.make_node("Loop", [*bounds, state, weight], loop_outputs, name=f"loop{i}", body=cell))
        state, weight = loop_outputs
    b.nodes, b.initializers = nodes, initializers
    b.node("MatMul", [state, weight], "last")
    proto = b.model({"x": (3, 4)}, {"last_out": (3, 4)})
    inputs = random_inputs({"x": ((3, 4), np.dtype(np.float32))})
    expected = run(session(proto), inputs)["last_out"]
    normalise(proto)
    assert [list(n.input)[2:] for n in proto.graph.node if n.op_type == "Loop"] == [["x"], ["state0"]]
    np.testing.assert_array_equal(run(session(proto), inputs)["last_out"], expected)


def test_a_dynamic_batch_stays_dynamic_in_bodies() -> None:
    for build in (branches, loop):
        proto = build()
        traced = trace_model(proto)
        small = resize(traced, select(traced, {g.name: g.channels // 2 for g in traced.prunable}))
        x = np.random.default_rng(0).standard_normal((3, 3, SIZE, SIZE)).astype(np.float32)
        assert run(session(small), {"x": x}, ["logits"])["logits"].shape == (3, 10)
