"""A subgraph that the shapes at hand make impossible stays as it is; all others are cut, and the cut is proven."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from control_cases import body, info
from models import Builder
from netadapt_onnx.api.inspect import Cautioned, inspect
from netadapt_onnx.api.prune import prune
from netadapt_onnx.cli import run as cli
from netadapt_onnx.graph.model import check
from netadapt_onnx.graph.runtime import Arrays, run, session
from netadapt_onnx.surgery.criteria.selection import select
from netadapt_onnx.surgery.resize import resize
from netadapt_onnx.surgery.trace import Trace
from netadapt_onnx.surgery.verify.prove import verify
from tracing import trace_model

FLOAT, BOOL, INT64 = TensorProto.FLOAT, TensorProto.BOOL, TensorProto.INT64
LONG, SHORT = 24, 16  # what the first and the other branch read, of lengths that rule each other out


def choice(b: Builder, graphs: list[Callable[[], str]], condition: str, name: str = "choose", output: str = "y") -> str:
    """An If between what two functions build."""
    outer = b.nodes, b.initializers
    branches = []
    for build, branch in zip(graphs, ("then", "else"), strict=True):
        b.nodes, b.initializers = [], []
        branches.append(body(b, f"{name}_{branch}", [], {build(): FLOAT}))
    b.nodes, b.initializers = outer
    b.nodes.append(
        helper.make_node("If", [condition], [output], name=name, then_branch=branches[0], else_branch=branches[1])
    )
    return output


def rate(b: Builder, value: int = 16000) -> str:
    return b.node("Equal", ["sr", b.constant(b.name("rate"), np.array(value))])


def dense(b: Builder, x: str, rows: int, name: str, hidden: int = 10) -> str:
    """Two layers; the first fixes the length of what it reads."""
    h = b.node("MatMul", [x, b.random(f"{name}1.weight", (rows, hidden), rows)], f"{name}1")
    return b.node("MatMul", [b.relu(h), b.random(f"{name}2.weight", (hidden, 6), hidden)], f"{name}2")


def branched_model(b: Builder, output: str = "y", length: int | str = "n") -> onnx.ModelProto:
    values = [info("x", [1, length]), info("sr", [], INT64)]
    graph = helper.make_graph(b.nodes, "branched", values, [info(output, None)], b.initializers)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def joined(b: Builder, y: str) -> str:
    """With the input behind it, so that the length is known only once that of the input is."""
    return b.node("Concat", [y, "x"], axis=1)


def voice() -> onnx.ModelProto:
    """Two networks for two sampling rates behind one input, as in voice activity detectors."""
    b = Builder()
    choice(b, [lambda: dense(b, "x", LONG, "wide"), lambda: dense(b, "x", SHORT, "narrow")], rate(b))
    return branched_model(b)


def behind_a_stem() -> onnx.ModelProto:
    """Both branches read what a layer outside puts out; one weight is read inside the impossible one and outside."""
    b = Builder()
    stem = b.node("Add", [dense(b, "x", LONG, "stem"), b.constant("shift", b.rng.normal(size=6).astype(np.float32))])
    free = b.node("MatMul", [stem, "shared"], "free")
    b.random("shared", (6, 9), 6)
    choice(
        b,
        [
            lambda: dense(b, free, 9, "inner"),
            lambda: dense(b, joined(b, b.node("MatMul", [stem, "shared"])), SHORT + 9, "lost"),
        ],
        rate(b),
    )  # fmt: skip
    return branched_model(b)


def nested() -> onnx.ModelProto:
    """The first branch holds another choice of which one side is impossible, by a condition that nobody knows."""
    b = Builder()

    def inner() -> str:
        sides = [lambda: dense(b, "x", SHORT, "lost"), lambda: dense(b, "x", LONG, "deep")]
        return choice(b, sides, rate(b, 48000), "within", "deep_y")

    choice(b, [inner, lambda: dense(b, "x", LONG, "other")], rate(b))
    return branched_model(b)


def decided() -> onnx.ModelProto:
    """A condition that the shape settles: the other branch goes, possible or not."""
    b = Builder()
    length = b.node("Gather", [b.node("Shape", ["x"]), b.constant("one", np.array(1))])
    long = b.node("Equal", [length, b.constant("long", np.array(LONG))])
    choice(b, [lambda: dense(b, "x", LONG, "wide"), lambda: dense(b, "x", SHORT, "narrow")], long)
    b.node("Mul", ["y", b.node("Cast", ["sr"], to=FLOAT)], output="z")
    return branched_model(b, "z")


def with_states() -> onnx.ModelProto:
    """Each branch is an LSTM that starts from a state; their results are read behind the If."""
    b = Builder()
    outer = b.nodes, b.initializers
    graphs = []
    for name, rows in (("wide", LONG), ("narrow", SHORT)):
        b.nodes, b.initializers = [], []
        x = b.node("Unsqueeze", ["x", b.constant(f"{name}.axis", np.array([0]))])
        weights = [b.random(f"{name}.W", (1, 32, rows), rows), b.random(f"{name}.R", (1, 32, 8), 8)]
        state_names = [f"{name}_y", f"{name}_h", f"{name}_c"]
        lstm = ["", "", "h", "c"]
        b.nodes.append(helper.make_node("LSTM", [x, *weights, *lstm], state_names, name=name, hidden_size=8))
        last = b.node("Squeeze", [state_names[1], b.constant(f"{name}.last", np.array([0]))])
        results = {dense(b, last, 8, f"{name}_head"): FLOAT, state_names[1]: FLOAT, state_names[2]: FLOAT}
        graphs.append(body(b, name, [], results))
    b.nodes, b.initializers = outer
    chosen = ["y", "hn", "cn"]
    b.nodes.append(
        helper.make_node("If", [rate(b)], chosen, name="choose", then_branch=graphs[0], else_branch=graphs[1])
    )
    proto = branched_model(b)
    proto.graph.input.extend([info("h", [1, 1, 8]), info("c", [1, 1, 8])])
    proto.graph.output.extend([info("hn", None), info("cn", None)])
    return proto


# What can be pruned at the longer input, and what stays as it is.
CASES: dict[str, tuple[Callable[[], onnx.ModelProto], dict[str, int], set[str]]] = {
    "voice": (voice, {"choose/then_branch/wide1": 10}, {"choose/else_branch"}),
    "stem": (
        behind_a_stem,
        {"stem1": 10, "free": 9, "choose/then_branch/inner1": 10},
        {"choose/else_branch"},
    ),
    "nested": (
        nested,
        {"choose/then_branch/within/else_branch/deep1": 10, "choose/else_branch/other1": 10},
        {"choose/then_branch/within/then_branch"},
    ),
    "decided": (decided, {"choose/wide1": 10}, set()),
    "states": (with_states, {"choose/then_branch/wide_head1": 10}, {"choose/else_branch"}),
}


def feeds(trace: Trace, length: int, sr: int) -> Arrays:
    rng = np.random.default_rng(length)
    fed = {n: rng.standard_normal(s).astype(d) for n, (s, d) in trace.folded.specs.items()}
    return fed | {"x": rng.standard_normal((1, length)).astype(np.float32), "sr": np.array(sr)}


@pytest.mark.parametrize("name", CASES)
def test_the_possible_branch_is_cut_and_proven(name: str) -> None:
    build, groups, untraced = CASES[name]
    trace = trace_model(build(), shapes={"x": (1, LONG)})
    assert set(trace.flat.untraced) == untraced
    prunable = {g.name: g.channels for g in trace.prunable}
    assert groups.items() <= prunable.items(), prunable
    keep = select(trace, {g: n // 2 for g, n in groups.items()}, "random")
    pruned = resize(trace, keep)
    check(pruned)
    proof = verify(trace, keep, pruned=pruned)
    assert proof.exact and not proof.inexact_groups, proof
    changed = run(session(pruned), feeds(trace, LONG, 16000))
    whole_model = run(session(build()), feeds(trace, LONG, 16000))
    assert {n: v.shape for n, v in changed.items()} == {n: v.shape for n, v in whole_model.items()}


@pytest.mark.parametrize("name", ["voice", "states"])
def test_the_branch_that_stays_computes_what_it_did(name: str) -> None:
    build = CASES[name][0]
    trace = trace_model(build(), shapes={"x": (1, LONG)})
    pruned = resize(trace, select(trace, {g.name: g.channels // 2 for g in trace.prunable}))
    fed = feeds(trace, SHORT, 8000)
    expected = run(session(build()), fed)
    for output, value in run(session(pruned), fed).items():
        np.testing.assert_array_equal(value, expected[output])


def test_a_wrong_cut_beside_an_impossible_branch_is_caught() -> None:
    trace = trace_model(voice(), shapes={"x": (1, LONG)})
    keep = select(trace, {"choose/then_branch/wide1": 4}, "random")
    pruned = resize(trace, keep)
    graph = next(a.g for n in pruned.graph.node for a in n.attribute if a.name == "then_branch")
    weight = next(t for t in graph.initializer if t.name == "wide2.weight")
    values = onnx.numpy_helper.to_array(weight)
    weight.CopyFrom(onnx.numpy_helper.from_array(np.ascontiguousarray(values[::-1]), weight.name))
    assert not verify(trace, keep, pruned=pruned).exact


def test_a_branch_that_only_a_run_shows_to_be_impossible_is_named_as_unproven() -> None:
    """Neither ONNX nor we see that an index lies beyond; what the inputs decide takes it, and so does its turn."""
    b = Builder()

    def beyond() -> str:
        picked = b.node("Gather", ["x", b.node("Cast", [b.node("Mul", ["sr", "far"])], to=INT64)], axis=1)
        return dense(b, b.node("Unsqueeze", [picked, b.constant("last", np.array([1]))]), 1, "lost")

    b.constant("far", np.array(10**6))
    choice(b, [lambda: dense(b, "x", LONG, "wide"), beyond], rate(b))
    trace = trace_model(branched_model(b), shapes={"x": (1, LONG)})
    keep = select(trace, {g.name: 5 for g in trace.prunable}, "random")
    proof = verify(trace, keep)
    assert proof.exact and proof.tensors > 0
    assert proof.inexact_groups and all("else_branch" in name for name in proof.inexact_groups)


def impossible_altogether() -> onnx.ModelProto:
    """Neither branch can be run; another output does not need them."""
    b = Builder()
    x = b.node("MatMul", [b.relu(dense(b, "x", LONG, "stem")), b.random("free.weight", (6, 9), 6)], "free")
    last = b.node("MatMul", [b.relu(x), b.random("last.weight", (9, 4), 9)], "last")
    rows = 6 + SHORT
    first, other = (partial(dense, b, "after", rows, name) for name in ("wide", "narrow"))
    b.node("Concat", ["stem2_out", "x"], output="after", axis=1)
    choice(b, [first, other], rate(b))
    proto = branched_model(b)
    proto.graph.output[0].CopyFrom(info("y", [1, 6]))
    proto.graph.output.extend([info(last, None)])
    return proto


def impossible_loop() -> onnx.ModelProto:
    """A Loop whose body cannot take what it starts from; another output does not need it."""
    b = Builder()
    y = b.node("MatMul", ["state", b.random("within.weight", (6 + SHORT, 6 + SHORT), 22)], "within")
    b.node("Identity", ["going"], output="go_on")
    inputs = [info("turn", [], INT64), info("going", [], BOOL), info("state", None)]
    graph = body(b, "block", inputs, {"go_on": BOOL, y: FLOAT})
    x = b.node("MatMul", [b.relu(dense(b, "x", LONG, "stem")), b.random("free.weight", (6, 9), 6)], "free")
    last = b.node("MatMul", [b.relu(x), b.random("last.weight", (9, 4), 9)], "last")
    bounds = [b.constant("times", np.array(3)), b.constant("true", np.array(True))]
    b.nodes.append(helper.make_node("Loop", [*bounds, joined(b, "stem2_out")], ["z"], name="repeat", body=graph))
    proto = branched_model(b, "z")
    proto.graph.output[0].CopyFrom(info("z", [1, 30]))
    proto.graph.output.extend([info(last, None)])
    return proto


@pytest.mark.parametrize(
    ("build", "untraced"),
    [
        (impossible_altogether, {"choose/then_branch", "choose/else_branch"}),
        (impossible_loop, {"repeat/body"}),
    ],
)
def test_what_nothing_can_run_pins_what_it_reads_and_the_rest_is_proven(
    build: Callable[[], onnx.ModelProto], untraced: set[str]
) -> None:
    trace = trace_model(build(), shapes={"x": (1, LONG)})
    assert set(trace.flat.untraced) == untraced
    assert {g.name: g.channels for g in trace.prunable} == {"stem1": 10, "free": 9}
    assert "stays as it is" in (trace.group("stem2").reason or "")
    keep = select(trace, {"stem1": 5, "free": 4}, "random")
    pruned = resize(trace, keep)
    proof = verify(trace, keep, pruned=pruned)
    assert proof.exact and proof.tensors >= 6, proof


def test_inspect_and_prune_name_both_branches(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "m.onnx"
    path.write_bytes(voice().SerializeToString())
    shapes = {"x": (1, LONG)}
    result = inspect(path, shapes=shapes)
    assert isinstance(result, Cautioned)
    notes = [result.notes[0], prune(path, ratio=0.5, shapes=shapes).note]
    for note in notes:
        assert "'choose/else_branch' stays as it is" in note and "'choose/then_branch' is traced" in note
        assert "MatMul: Incompatible dimensions" in note
    for more in ([], ["--explain", "choose/then_branch/wide1"]):
        assert cli(["inspect", str(path), "--shape", f"x=1x{LONG}", *more]) == 0
        assert notes[0] in capsys.readouterr().out


def test_a_name_inside_what_stays_is_explained_by_what_stays(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "m.onnx"
    path.write_bytes(voice().SerializeToString())
    for name in ("choose/else_branch", "choose/else_branch/narrow1"):
        assert cli(["inspect", str(path), "--shape", f"x=1x{LONG}", "--explain", name]) == 2
        assert "'choose/else_branch' stays as it is: MatMul: Incompatible dimensions" in capsys.readouterr().err


def test_the_case_that_failed_is_traced_in_its_possible_branch(real_cases: Path) -> None:
    result = prune(real_cases / "if_with_an_impossible_branch.onnx", ratio=0.5, shapes={"x": (1, 576)})
    assert result.groups == {"If_0/then_branch/then_conv1": (32, 16)}
    assert result.verify is not None and result.verify.exact
