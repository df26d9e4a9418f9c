"""`inspect`: the fields of its document, and what of them is shown."""

from __future__ import annotations

from pathlib import Path

import pytest

from json_documents import RESOURCES, document
from models import Builder, plain, resnet
from netadapt_onnx import cli
from netadapt_onnx.graph.model import save


def test_inspect(learnable: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output = document(capsys, "inspect", learnable / "model.onnx")
    assert set(output) == {"model", "layers", "groups", "file", "paths"}
    assert set(output["model"]) == RESOURCES
    assert output["model"]["latency_ms"] is None
    assert all(set(layer) == {"name", "op", "params", "macs", "group", "latency_ms"} for layer in output["layers"])
    assert output["groups"][0] == {
        "name": "conv1",
        "channels": 8,
        "step": 1,
        "floor": 1,
        "layers": ["conv1"],
        "prunable": True,
        "reason": None,
    }
    assert output["groups"][-1]["prunable"] is False
    assert "logits" in output["groups"][-1]["reason"]


def test_inspect_explains_only_when_asked(learnable: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output = document(capsys, "inspect", learnable / "model.onnx", "--explain", "conv1")
    assert set(output) == {"model", "layers", "groups", "file", "paths", "explain"}
    assert output["explain"][0]["group"]["name"] == "conv1"
    assert {"tensor": "conv2.weight", "axis": 1, "positions": 8, "length": 8} in output["explain"][0]["constants"]


def shown(capsys: pytest.CaptureFixture[str], *words: object) -> str:
    assert cli.run([*map(str, words)]) == 0
    return capsys.readouterr().out


def test_the_document_says_what_the_file_takes_and_returns(learnable: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = document(capsys, "inspect", learnable / "model.onnx")["file"]
    assert file["inputs"] == [{"name": "image", "type": "float", "shape": ["N", 3, 8, 8]}]
    assert file["outputs"] == [{"name": "logits", "type": "float", "shape": ["N", 3]}]
    assert file["opset"] == {"ai.onnx": 17}
    assert set(file) == {"inputs", "outputs", "opset", "ir_version", "producer"}


def test_text_begins_with_what_the_file_is(learnable: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lines = [line.split() for line in shown(capsys, "inspect", learnable / "model.onnx").splitlines()]
    assert lines[0] == ["input", "image", "float", "Nx3x8x8"]
    assert lines[1] == ["output", "logits", "float", "Nx3"]
    assert [line[0] for line in lines[2:5]] == ["opset", "producer", "size"]


def test_long_tables_are_cut_unless_all_is_asked_for(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = save(plain((4,) * 24), tmp_path / "model.onnx")
    text = shown(capsys, "inspect", model)
    assert "... and 5 more groups: --all shows them" in text  # of 24 convolutions and a Gemm
    assert "\nconv20 " in text and "\nconv21 " not in text
    assert "fc1: reaches graph output 'logits'" in text  # the reasons are a list of their own
    full = shown(capsys, "inspect", model, "--all")
    assert "more groups" not in full and "\nconv24 " in full


def test_many_inputs_are_cut_too(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    b = Builder()
    x = "x0"
    for i in range(1, 23):
        x = b.node("Add", [x, f"x{i}"])
    b.fc(x, 8, 4, output="y")
    proto = b.model({f"x{i}": (1, 8) for i in range(23)}, {"y": (1, 4)})
    assert "... and 3 more inputs: --all shows them" in shown(capsys, "inspect", save(proto, tmp_path / "m.onnx"))


def test_groups_go_by_their_path_too(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    proto = plain((8, 16))
    for node in proto.graph.node:
        if node.op_type == "Conv":
            node.name = f"/features/features.{node.name[-1]}/conv/Conv"
    model = save(proto, tmp_path / "model.onnx")
    name, path = "/features/features.1/conv/Conv", "features.1.conv"
    assert document(capsys, "inspect", model)["paths"][name] == path
    assert f"{name}  {path}" in shown(capsys, "inspect", model)
    assert document(capsys, "inspect", model, "--explain", path)["explain"][0]["group"]["name"] == name
    assert document(capsys, "prune", model, "--keep", f"{path}=4")["groups"][name] == [8, 4]


def test_a_drawing_is_written_and_never_over_another_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model, drawing = save(resnet(), tmp_path / "model.onnx"), tmp_path / "network.dot"
    assert f"the drawing of the network is in {drawing}\nnext: " in shown(capsys, "inspect", model, "--graph", drawing)
    assert drawing.read_text(encoding="utf-8").startswith("digraph {")
    for words, reason in (
        (["--graph", drawing], "exists"),
        (["--graph", model, "--overwrite"], "no form of a drawing"),
        (["--graph", tmp_path / "n.png"], ".svg, .html, .dot"),
        (["--graph", tmp_path / "n.dot", "--write-plan", tmp_path / "n.dot"], "both the plan and the drawing"),
    ):
        assert cli.run(["inspect", str(model), *map(str, words)]) == 2
        assert reason in capsys.readouterr().err
    shown(capsys, "inspect", model, "--graph", drawing, "--overwrite")
