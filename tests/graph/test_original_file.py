"""A file as its owner runs it: whether a runtime makes the same of it as of its normalised form, in general."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

import models
from models import Builder, overridable, plain
from netadapt_onnx.gating import run_model
from netadapt_onnx.gating.jobs import TimeJob
from netadapt_onnx.graph import original_file as comparing
from netadapt_onnx.graph.fold_shapes import fold
from netadapt_onnx.graph.model import load
from netadapt_onnx.graph.original_file import AsGiven, as_given, read_as_given, runs_as_given
from netadapt_onnx.graph.runtime import run, session
from netadapt_onnx.profilers.statistics import Timing

Protos = Callable[[], onnx.ModelProto]


def seen(proto: onnx.ModelProto, folder: Path) -> AsGiven:
    (folder / "model.onnx").write_bytes(proto.SerializeToString())
    model = load(folder / "model.onnx")
    return as_given(model, fold(model.proto, {"image": (1, 3, 16, 16)}).proto)


def old(proto: onnx.ModelProto) -> onnx.ModelProto:
    """Of IR version 3, which lists initializers as inputs without making them overridable."""
    listed = overridable(proto)
    listed.ir_version = 3
    return listed


def with_constants() -> onnx.ModelProto:
    """Weights in Constant nodes, an Identity in the middle, declared shapes."""
    proto = onnx.shape_inference.infer_shapes(plain())
    moved = list(proto.graph.initializer[:4])
    nodes = [helper.make_node("Constant", [], [t.name], value=t) for t in moved]
    kept = list(proto.graph.initializer[4:])
    last = proto.graph.node[-1]
    nodes += [*proto.graph.node[:-1], helper.make_node("Identity", [last.input[0]], ["same"]), last]
    last.input[0] = "same"
    copies = [onnx.NodeProto.FromString(node.SerializeToString()) for node in nodes]
    del proto.graph.initializer[:], proto.graph.node[:]
    proto.graph.initializer.extend(kept)
    proto.graph.node.extend(copies)
    return proto


def with_a_function() -> onnx.ModelProto:
    """Its activation is a local function."""
    proto = plain()
    opset = [helper.make_opsetid("", 17)]
    relu = helper.make_function("own", "Act", ["x"], ["y"], [helper.make_node("Relu", ["x"], ["y"])], opset)
    for node in proto.graph.node:
        if node.op_type == "Relu":
            node.op_type, node.domain = "Act", "own"
    proto.functions.append(relu)
    proto.opset_import.append(helper.make_opsetid("own", 1))
    return proto


def with_a_choice_by_size() -> onnx.ModelProto:
    """Which branch runs depends on a height that the file leaves free: a runtime asks at every run."""
    b = Builder()
    x = b.conv_bn_relu("image", 3, 8)
    height = b.node("Gather", [b.node("Shape", ["image"]), b.constant("second", np.array(2, np.int64))])
    small = b.node("Less", [height, b.constant("limit", np.array(1000, np.int64))])
    branches = []
    for op in ("Relu", "Tanh"):
        out = helper.make_tensor_value_info(f"{op}_out", TensorProto.FLOAT, None)
        branches.append(helper.make_graph([helper.make_node(op, [x], [out.name], f"{op}_in")], op, [], [out]))
    x = b.node("If", [small], then_branch=branches[0], else_branch=branches[1])
    b.head(x, 8)
    return b.model({"image": (1, 3, "H", "W")}, {"logits": (1, 10)})


@pytest.mark.parametrize(
    "build",
    [plain, models.residual, lambda: old(plain()), with_constants, with_a_function],
    ids=["plain", "residual", "old", "constants", "function"],
)
def test_what_a_runtime_sees_alike_is_not_told_apart(build: Protos, tmp_path: Path) -> None:
    original = seen(build(), tmp_path)
    assert (original.proto, original.note) == (None, "")


@pytest.mark.parametrize("build", [lambda: overridable(plain()), with_a_choice_by_size], ids=["listed", "choice"])
def test_what_a_runtime_sees_otherwise_is_kept_as_it_is(build: Protos, tmp_path: Path) -> None:
    original = seen(build(), tmp_path)
    assert original.proto == build()
    assert (original.sha256, original.note) == (load(tmp_path / "model.onnx").sha256, "")


def test_most_files_are_compared_without_a_session(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(comparing, "optimised", lambda *_: pytest.fail("a session was opened"))
    assert seen(plain(), tmp_path).proto is None


def test_a_listed_initializer_anywhere_makes_a_difference(tmp_path: Path) -> None:
    """One weight of many: its convolution alone is not fused."""
    proto = plain()
    weight = next(t for t in proto.graph.initializer if t.name == "conv2.weight")
    proto.graph.input.append(helper.make_tensor_value_info(weight.name, TensorProto.FLOAT, list(weight.dims)))
    assert seen(proto, tmp_path).proto is not None


def test_external_data_are_read_with_the_file(tmp_path: Path) -> None:
    proto = overridable(plain((64, 64)))
    onnx.save(proto, tmp_path / "model.onnx", save_as_external_data=True, location="w.bin", size_threshold=0)
    model = load(tmp_path / "model.onnx")
    original = as_given(model, fold(model.proto).proto)
    assert original.proto is not None
    image = np.random.default_rng(0).standard_normal((1, 3, 16, 16)).astype(np.float32)
    mine, theirs = (run(session(p), {"image": image})["logits"] for p in (original.proto, plain((64, 64))))
    np.testing.assert_allclose(mine, theirs, atol=1e-4 * np.abs(theirs).max())


def test_a_file_that_changed_since_it_was_loaded_is_said(tmp_path: Path) -> None:
    (tmp_path / "model.onnx").write_bytes(overridable(plain()).SerializeToString())
    model = load(tmp_path / "model.onnx")
    folded = fold(model.proto).proto
    (tmp_path / "model.onnx").write_bytes(overridable(plain(seed=1)).SerializeToString())
    original = as_given(model, folded)
    assert original.proto is None
    assert "no longer the file that was loaded" in original.note
    (tmp_path / "model.onnx").unlink()
    assert "no such file" in as_given(model, folded).note


def of_opset_5() -> onnx.ModelProto:
    """onnxruntime has no operators of it; loading brings them to 7."""
    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 4]) for name in "xy")
    graph = helper.make_graph([helper.make_node("Relu", ["x"], ["y"])], "g", [x], [y])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 5)], ir_version=8)


def test_a_file_that_cannot_be_run_as_it_is_is_stood_in_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "model.onnx").write_bytes(of_opset_5().SerializeToString())
    model = load(tmp_path / "model.onnx")
    assert read_as_given(model).opset_import[0].version == 5
    timed, note = runs_as_given(model)
    assert timed is model.proto
    assert "was not timed, but its normalised form" in note
    monkeypatch.setattr(run_model, "measure", lambda *_, **__: [Timing(1.0, (0.9, 1.1), 9)])
    assert run_model.time_model(TimeJob(str(model.path), None, {}, 1, "cpu", 1, None, 1.0)).note == note
