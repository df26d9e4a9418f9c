"""A model that is written, loads: it is opened once and returns what is planned, or nothing of it is left."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import models
import netadapt_onnx
from netadapt_onnx.cli import run
from netadapt_onnx.errors import NetadaptError
from netadapt_onnx.graph.fold_shapes import fold
from netadapt_onnx.graph.loadable import Interface, require_planned
from netadapt_onnx.graph.model import load, save
from netadapt_onnx.graph.runtime import session
from netadapt_onnx.surgery.criteria.selection import select
from netadapt_onnx.surgery.labels import Labels
from netadapt_onnx.surgery.node import Node
from netadapt_onnx.surgery.resize import resize
from netadapt_onnx.surgery.rules.registry import RULES
from netadapt_onnx.surgery.trace import trace
from netadapt_onnx.surgery.verify.prove import verify

FLOAT = np.dtype(np.float32)


def lies(node: Node, labels: Labels) -> None:
    """A rule that forgets that a sum needs both its operands: the first keeps its channels, the other loses them."""
    labels.of(node.inputs[0])
    labels.set(node.outputs[0], labels.of(node.inputs[1]))


def summed(batch: int | str = "N") -> onnx.ModelProto:
    """Two convolutions and their sum, which a third reads."""
    b = models.Builder()
    x = b.node("Add", [b.conv("image", 3, 8), b.conv("image", 3, 8)])
    b.conv(x, 8, 4, 1, name="last")
    return b.model({"image": (batch, 3, 8, 8)}, {"last_out": (batch, 4, 8, 8)})


@pytest.fixture
def wrong(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    monkeypatch.setitem(RULES, ("", "Add"), lies)
    monkeypatch.chdir(tmp_path)
    onnx.save(summed(), "model.onnx")
    return tmp_path


@pytest.mark.parametrize("more", [[], ["--verify"]])
def test_a_cut_that_does_not_load_leaves_nothing(
    wrong: Path, more: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["prune", "model.onnx", "--keep", "conv2=4", "-o", "small.onnx", "--json", *more]) == 2
    out, err = capsys.readouterr()
    error = json.loads(out)["error"]
    assert error["code"] == "bad-cut"
    assert "onnxruntime says" in error["message"]
    assert "--keep" in error["hint"]
    assert len(err.splitlines()) == 1
    assert sorted(path.name for path in wrong.iterdir()) == ["model.onnx"]


def test_what_was_there_before_stays(wrong: Path) -> None:
    for name in ("small.onnx", "small.plan.toml"):
        (wrong / name).write_bytes(b"mine")
    with pytest.raises(NetadaptError, match="not written") as caught:
        netadapt_onnx.prune("model.onnx", "small.onnx", keep={"conv2": 4}, overwrite=True)
    assert caught.value.code == "bad-cut"
    assert all((wrong / name).read_bytes() == b"mine" for name in ("small.onnx", "small.plan.toml"))
    assert len(list(wrong.iterdir())) == 3


def refused() -> onnx.ModelProto:
    """A model that the ONNX checker takes and onnxruntime does not: a Gemm of matrices that do not fit."""
    b = models.Builder()
    b.node("Gemm", ["x", b.random("weight", (5, 4))], output="y")
    value = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in (("x", [1, 6]), ("y", []))
    ]
    value[1].type.tensor_type.ClearField("shape")
    graph = helper.make_graph(b.nodes, "refused", value[:1], value[1:], b.initializers)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


@pytest.mark.parametrize("limit", [None, 10])
def test_a_file_that_onnxruntime_refuses_is_not_left_behind(
    limit: int | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if limit is not None:  # as if it were too large for one file
        monkeypatch.setattr("netadapt_onnx.graph.model.PROTOBUF_LIMIT", limit)
    with pytest.raises(NetadaptError, match="onnxruntime says") as caught:
        save(refused(), tmp_path / "y.onnx")
    assert caught.value.code == "bad-cut"
    assert list(tmp_path.iterdir()) == []


def test_a_large_model_and_its_weights_appear_together(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("netadapt_onnx.graph.model.PROTOBUF_LIMIT", 10)
    proto = models.plain((32, 48))
    save(proto, tmp_path / "a.onnx", planned=fold(proto).interface())
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.onnx", "a.onnx.data"]
    before = [path.read_bytes() for path in sorted(tmp_path.iterdir())]
    with pytest.raises(NetadaptError):
        save(refused(), tmp_path / "a.onnx", overwrite=True)
    assert [path.read_bytes() for path in sorted(tmp_path.iterdir())] == before
    assert load(tmp_path / "a.onnx").proto.graph.initializer[0].dims == proto.graph.initializer[0].dims


def test_what_a_killed_process_left_of_a_large_model_goes_with_the_next(tmp_path: Path) -> None:
    (tmp_path / ".a.onnx.123.tmp").write_bytes(b"")
    (tmp_path / ".a.onnx.123.tmp.folder").mkdir()
    (tmp_path / ".a.onnx.123.tmp.folder" / "a.onnx.data").write_bytes(b"weights")
    save(models.plain(), tmp_path / "a.onnx")
    assert [path.name for path in tmp_path.iterdir()] == ["a.onnx"]


def test_results_are_compared_with_what_is_planned() -> None:
    proto = summed()
    planned = fold(proto).interface()
    require_planned(proto, planned)
    assert planned.outputs == {"last_out": ((1, 4, 8, 8), FLOAT)}
    for wrong, message in (
        (((1, 5, 8, 8), FLOAT), "1x4x8x8.*should be.*1x5x8x8"),
        (((1, 4, 8), FLOAT), "should be.*1x4x8"),
        (((1, 4, 8, 8), np.dtype(np.int64)), "float.*should be.*int64"),
    ):
        with pytest.raises(NetadaptError, match=message) as caught:
            require_planned(proto, Interface(planned.inputs, {"last_out": wrong}))
        assert caught.value.code == "bad-cut"
    with pytest.raises(NetadaptError, match="lost its output 'other'"):
        require_planned(proto, Interface(planned.inputs, {"other": ((1,), FLOAT)}))


def test_what_onnxruntime_says_of_the_original_too_is_no_fault_of_the_cut() -> None:
    proto = summed()
    planned = Interface(fold(proto).interface().inputs, {"last_out": ((1, 5, 8, 8), FLOAT)}, proto)
    require_planned(proto, planned)
    require_planned(refused(), Interface({"x": ((1, 6), FLOAT)}, {"y": ((1, 4), FLOAT)}, refused()))


def test_an_operator_that_onnxruntime_lacks_does_not_refuse_a_cut(tmp_path: Path) -> None:
    b = models.Builder()
    x = b.conv(b.relu(b.conv("image", 3, 8)), 8, 4)
    b.nodes.append(helper.make_node("Sharpen", [x], ["sharp"], "sharpen", domain="acme"))
    proto = helper.make_model(
        helper.make_graph(
            b.nodes,
            "custom",
            [helper.make_tensor_value_info("image", TensorProto.FLOAT, [1, 3, 8, 8])],
            [helper.make_tensor_value_info("sharp", TensorProto.FLOAT, [1, 4, 8, 8])],
            b.initializers,
        ),
        opset_imports=[helper.make_opsetid("", 17), helper.make_opsetid("acme", 1)],
        ir_version=8,
    )
    onnx.save(proto, tmp_path / "model.onnx")
    cut = netadapt_onnx.prune(tmp_path / "model.onnx", tmp_path / "small.onnx", ratio=0.5)
    assert cut.groups["conv1"] == (8, 4)
    assert cut.model is not None
    assert "not proven" in cut.note


def test_sizes_that_the_file_leaves_open_are_those_that_were_given(tmp_path: Path) -> None:
    """A cut that only a size given at run time shows to be wrong: onnxruntime opens the file, the shapes do not fit."""
    proto = summed()
    proto.graph.input[0].type.tensor_type.shape.dim[2].dim_param = "H"
    model_trace = trace(fold(proto, {"image": (1, 3, 8, 8)}))
    keep = select(model_trace, {group.name: 4 for group in model_trace.prunable})
    cut, planned = resize(model_trace, keep), model_trace.folded.interface(model_trace.resized_shapes(keep))
    assert save(cut, tmp_path / "cut.onnx", planned=planned).is_file()
    target = numpy_helper.from_array(np.array([0, -1, 4, 8]), "target")
    cut.graph.initializer.append(target)
    cut.graph.node.append(helper.make_node("Reshape", ["last_out", "target"], ["other"], "other"))
    cut.graph.output[0].name = "other"
    outputs = {"other": planned.outputs["last_out"]}
    assert session(cut).get_outputs()[0].name == "other"
    with pytest.raises(NetadaptError, match="1x8x4x8"):
        save(cut, tmp_path / "wrong.onnx", planned=replace(planned, outputs=outputs))
    assert not (tmp_path / "wrong.onnx").exists()


def test_a_cut_that_loads_but_does_not_run_is_no_unproven_one(wrong: Path) -> None:
    """The sum of open sizes: nothing but a run shows that its operands do not fit."""
    proto = summed()
    for axis in (2, 3):
        proto.graph.input[0].type.tensor_type.shape.dim[axis].dim_param = f"D{axis}"
    model_trace = trace(fold(proto, {"image": (1, 3, 8, 8)}))
    with pytest.raises(NetadaptError, match="is wrong and is not written") as caught:
        verify(model_trace, select(model_trace, {"conv2": 4}))
    assert caught.value.code == "bad-cut"
