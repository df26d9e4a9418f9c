"""`diff`: what changed between two models, in each of its formats."""

from __future__ import annotations

from pathlib import Path

import onnx
import pytest
from onnx import numpy_helper

import netadapt_onnx
from gate_fixtures import document, git, run, save, small, wide
from models import Builder, plain, residual
from netadapt_onnx.errors import NetadaptError
from netadapt_onnx.gating.matching import match_layers
from netadapt_onnx.gating.records import Layer


@pytest.fixture
def pair(workspace: Path) -> tuple[Path, Path]:
    return save(small(), workspace / "a.onnx"), save(wide(), workspace / "b.onnx")


def changes(answer: dict[str, list[dict[str, str]]]) -> dict[str, str]:
    return {layer["name"]: layer["change"] for layer in answer["layers"]}


def test_widths(pair: tuple[Path, Path], capsys: pytest.CaptureFixture[str]) -> None:
    result = document(capsys, "diff", *pair)
    assert {"totals", "layers"} <= set(result)
    sizes = [path.stat().st_size for path in pair]
    assert result["totals"] == {
        "params": [11274, 14746], "macs": [442688, 553280], "size_bytes": sizes, "memory_bytes": [32768, 32768],
    }  # fmt: skip
    layers = {layer["name"]: layer for layer in result["layers"]}
    assert set(layers["conv2"]) == {"name", "change", "a", "b"}
    assert layers["conv2"]["change"] == "widths"
    assert (layers["conv2"]["a"]["weights"][0], layers["conv2"]["b"]["weights"][0]) == ("24x16x3x3", "32x16x3x3")
    assert (layers["conv2"]["a"]["macs"], layers["conv2"]["b"]["macs"]) == (221184, 294912)
    assert "conv1" not in layers  # its weights are the same
    assert result["unchanged"] + len(layers) == 7


def test_a_model_and_itself(pair: tuple[Path, Path], capsys: pytest.CaptureFixture[str]) -> None:
    assert "identical" in run(capsys, "diff", pair[0], pair[0])
    assert document(capsys, "diff", pair[0], pair[0])["layers"] == []


def test_each_kind_of_change_has_its_name(workspace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = save(small(), workspace / "a.onnx")
    proto = small()
    graph = proto.graph
    tensors = {t.name: t for t in graph.initializer}
    tensors["conv2.weight"].raw_data = bytes(len(tensors["conv2.weight"].raw_data))
    graph.node[0].name = "stem"
    logits = graph.node[-1]
    logits.output[0] = "scores"
    graph.node.append(onnx.helper.make_node("Mul", ["scores", "temperature"], ["logits"], name="scale"))
    graph.initializer.append(numpy_helper.from_array(numpy_helper.to_array(tensors["fc1.bias"]), "temperature"))
    proto.metadata_props.add(key="author", value="me")
    proto.opset_import[0].version = 18
    after = save(proto, workspace / "b.onnx")
    result = document(capsys, "diff", before, after)
    assert changes(result) == {"stem": "name", "conv2": "weights", "scale": "added"}
    assert changes(document(capsys, "diff", after, before)) == {"conv1": "name", "conv2": "weights", "scale": "removed"}
    assert result["opset"] == {"ai.onnx": ["17", "18"]}
    assert result["metadata"] == {"author": [None, "me"]}
    assert result["inputs"] == result["outputs"] == {}


def test_types_inputs_and_outputs(workspace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from onnx import TensorProto

    def model(kind: int, outputs: int) -> onnx.ModelProto:
        b = Builder()
        b.fc("x", 8, outputs, output="y")
        proto = b.model({"x": ("N", 8)}, {"y": ("N", outputs)})
        for tensor in proto.graph.initializer:
            dtype = onnx.helper.tensor_dtype_to_np_dtype(kind)
            tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor).astype(dtype), tensor.name))
        for value in [*proto.graph.input, *proto.graph.output]:
            value.type.tensor_type.elem_type = kind
        return proto

    single = save(model(TensorProto.FLOAT, 4), workspace / "a.onnx")
    half = save(model(TensorProto.FLOAT16, 4), workspace / "b.onnx")
    result = document(capsys, "diff", single, half)
    assert changes(result) == {"fc1": "type"}
    assert (result["layers"][0]["a"]["type"], result["layers"][0]["b"]["type"]) == ("float", "float16")
    assert result["inputs"] == {"x": ["float Nx8", "float16 Nx8"]}
    assert "float16" in run(capsys, "diff", single, half)
    more = save(model(TensorProto.FLOAT, 5), workspace / "c.onnx")
    assert document(capsys, "diff", single, more)["outputs"] == {"y": ["float Nx4", "float Nx5"]}


def test_renumbered_layers_are_found_by_their_place(workspace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A layer put in front renumbers all names that an exporter made up."""
    a, b = plain((16, 24, 32)), plain((16, 16, 24, 32), seed=1)
    for proto in (a, b):
        for i, node in enumerate(proto.graph.node):
            node.name = f"node_{i}"
    result = document(capsys, "diff", save(a, workspace / "a.onnx"), save(b, workspace / "b.onnx"))
    added = [layer for layer in result["layers"] if layer["change"] == "added"]
    assert sum(layer["b"]["params"] for layer in added) < 16 * 16 * 9 + 100
    assert not [layer for layer in result["layers"] if layer["change"] == "removed"]


def test_markdown(pair: tuple[Path, Path], capsys: pytest.CaptureFixture[str]) -> None:
    lines = run(capsys, "diff", *pair, "--format", "markdown")
    assert "| widths" in lines
    assert "`24x16x3x3 -> 32x16x3x3`" in lines


def test_a_revision(workspace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    git(workspace, "init", "-q")
    model = save(small(), workspace / "m.onnx")
    git(workspace, "add", "-A")
    git(workspace, "commit", "-qm", "one")
    save(residual(), model)
    result = document(capsys, "diff", "git:HEAD", model)
    assert result["totals"]["params"][0] == 11274
    assert document(capsys, "diff", model, "git:HEAD")["totals"]["params"][1] == 11274
    assert "two revisions" in run(capsys, "diff", "git:HEAD", "git:HEAD", code=2)
    assert "is not in git" in run(capsys, "diff", "git:HEAD", save(small(), workspace / "new.onnx"), code=2)


def test_what_cannot_be_compared(workspace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = save(small(), workspace / "a.onnx")
    assert "no such file" in run(capsys, "diff", model, workspace / "none.onnx", code=2)
    (workspace / "none.onnx").write_text("no model")
    assert "not an ONNX file" in run(capsys, "diff", workspace / "none.onnx", model, code=2)
    with pytest.raises(NetadaptError):
        netadapt_onnx.diff(model, workspace / "none.onnx")


def layer(name: str, weights: str, op: str = "Conv") -> Layer:
    return Layer(name, op, len(weights), None, (weights,))


def test_layers_are_matched_by_what_they_have_in_common() -> None:
    blocks = [layer(f"block{i}", "16x16") for i in range(5)]
    assert match_layers(blocks, [*blocks[:2], *blocks[3:]])[-1] == (blocks[2], None)  # names tell equal shapes apart
    swapped = [blocks[0], layer("right", "8x16"), layer("left", "4x16")]
    original = [swapped[0], swapped[2], swapped[1]]
    assert set(match_layers(original, swapped)) == {(b, b) for b in swapped}
    assert match_layers([], blocks[:1]) == [(None, blocks[0])]
    assert match_layers([layer("a", "8", "Conv")], [layer("a", "8", "Gemm")])[0][0] is None
    many = [layer(f"l{i}", str(i)) for i in range(1000)]
    assert all(a is b for a, b in match_layers(many, many))  # too many to be aligned
