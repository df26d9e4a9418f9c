"""A file with nothing to prune says why, by operator; what it says to run next can be run."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from models import Builder, custom, plain
from netadapt_onnx.api.inspect import Cautioned, inspect
from netadapt_onnx.cli import run
from netadapt_onnx.graph.fold_shapes import fold
from netadapt_onnx.graph.passes.pipeline import normalise
from netadapt_onnx.surgery.criteria.selection import select
from netadapt_onnx.surgery.trace import trace
from netadapt_onnx.surgery.verify.prove import verify

LAYOUT = "com.microsoft.nchwc"


def saved(proto: onnx.ModelProto, folder: Path) -> Path:
    path = folder / "m.onnx"
    path.write_bytes(proto.SerializeToString())
    return path


def optimised(tmp_path: Path) -> Path:
    """As onnxruntime saves a file with all its optimisations, where the processor has blocked layouts or not."""
    proto = plain((16, 32))
    for node in proto.graph.node:
        if node.op_type == "Conv":
            node.domain = LAYOUT
    proto.opset_import.append(helper.make_opsetid(LAYOUT, 1))
    return saved(proto, tmp_path)


def in_front() -> onnx.ModelProto:
    """An operator of a domain that onnxruntime lacks decodes the input; three convolutions read what it makes."""
    b = Builder()
    b.nodes.append(helper.make_node("Decode", ["raw"], ["x"], domain="my.pictures"))
    y = b.conv(b.relu(b.conv(b.relu(b.conv("x", 3, 16)), 16, 8)), 8, 4)
    graph = helper.make_graph(
        b.nodes,
        "decoded",
        [helper.make_tensor_value_info("raw", TensorProto.UINT8, ["n"])],
        [helper.make_tensor_value_info(y, TensorProto.FLOAT, None)],
        b.initializers,
    )
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("my.pictures", 1)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=8)


def test_layout_optimised_files_are_named_by_operator(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = optimised(tmp_path)
    assert run(["prune", str(path), "--ratio", "0.5"]) == 2
    error = capsys.readouterr().err
    assert re.search(rf"no rule for {LAYOUT}::Conv \(2\).*use the file from before optimisation", error), error
    assert run(["inspect", str(path)]) == 0
    shown = capsys.readouterr().out
    assert f"{LAYOUT}::Conv (2)" in shown and "use the file from before optimisation" in shown
    assert "next:" not in shown


def test_fused_operators_without_a_rule_are_named(tmp_path: Path) -> None:
    b = Builder()
    x = b.conv(b.relu(b.conv("x", 3, 8)), 8, 6)
    b.nodes.append(
        helper.make_node("FancyFusion", [x, b.random("fancy", (5, 6, 1, 1))], ["y"], "fancy", domain="com.microsoft")
    )
    graph = helper.make_graph(
        b.nodes,
        "fused",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 3, 8, 8])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 5, 8, 8])],
        b.initializers,
    )
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("com.microsoft", 1)]
    result = inspect(saved(helper.make_model(graph, opset_imports=opsets, ir_version=8), tmp_path))
    assert [g.name for g in result.groups if g.prunable] == ["conv1"]
    assert isinstance(result, Cautioned) and "com.microsoft::FancyFusion (1)" in result.notes[0]


def test_layers_behind_a_custom_operator_have_one_error_with_its_name(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = saved(in_front(), tmp_path)
    errors = []
    for command in (["inspect"], ["prune", "--ratio", "0.5"]):
        assert run([command[0], str(path), *command[1:]]) == 2
        errors.append(capsys.readouterr().err)
    assert errors[0] == errors[1]
    assert "onnxruntime has no my.pictures::Decode ('x')" in errors[0]
    options = shlex.split(errors[0][errors[0].index("--shape") :])
    assert options == ["--shape", "x=1x3x224x224"]
    assert run(["inspect", str(path), *options]) == 0
    command = shlex.split(capsys.readouterr().out.partition("next: netadapt-onnx ")[2])
    assert run(command) == 0
    assert "verified" in capsys.readouterr().out
    small = tmp_path / "small.onnx"
    assert run([*command, "-o", str(small)]) == 0
    shown = capsys.readouterr().out
    assert "not proven: onnxruntime has no my.pictures::Decode" in shown and "next:" not in shown
    assert run(["inspect", str(small)]) == 0  # whose file says what the operator puts out


def test_a_shape_that_a_tensor_does_not_have_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = saved(in_front(), tmp_path)
    assert run(["inspect", str(path), "--shape", "x=1x4x8x8"]) == 2
    assert "do not fit the 4 channels" in capsys.readouterr().err
    assert run(["inspect", str(path), "--shape", "conv1_out=1x16x8x8"]) == 2
    assert "names no input" in capsys.readouterr().err


def test_both_sides_of_a_custom_operator_of_known_shape_are_proven_around_it() -> None:
    proto = custom(("N", 8, 4, 4))
    normalise(proto)
    traced = trace(fold(proto))
    keep = select(traced, {"conv1": 8, "conv3": 6}, "random")
    proof = verify(traced, keep)
    assert proof.exact and proof.outputs["last_out"] == ("last_out",)
    assert proof.tensors >= 6


def test_a_wrong_cut_behind_a_custom_operator_is_caught() -> None:
    from netadapt_onnx.surgery.resize import resize

    proto = custom(("N", 8, 4, 4))
    normalise(proto)
    traced = trace(fold(proto))
    keep = select(traced, {"conv3": 6}, "random")
    pruned = resize(traced, keep)
    weight = next(t for t in pruned.graph.initializer if t.name == "last.weight")
    weight.CopyFrom(onnx.numpy_helper.from_array(onnx.numpy_helper.to_array(weight)[:, ::-1].copy(), weight.name))
    assert not verify(traced, keep, pruned=pruned).exact


def test_the_next_command_of_what_cannot_be_proven_writes_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its operator is assumed to keep its input's shape, so that nothing is proven."""
    path = saved(custom(), tmp_path)
    monkeypatch.chdir(tmp_path)
    assert run(["inspect", str(path)]) == 0
    shown = capsys.readouterr().out
    assert "no cut of it can be proven here: onnxruntime has no my.vision::Blur ('blur')" in shown
    assert run(shlex.split(shown.partition("next: netadapt-onnx ")[2])) == 0
    assert (tmp_path / "pruned.onnx").exists()


def test_the_next_command_sees_the_model_as_this_one_does(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    b = Builder()
    y = b.conv(b.relu(b.conv("my image", 3, 8)), 8, 4)
    path = saved(b.model({"my image": ("N", 3, "h", "w")}, {y: ("N", 4, "h", "w")}), tmp_path)
    shape = ["--shape", "my image=2x3x8x6", "--batch-size", "2"]
    assert run(["inspect", str(path), *shape]) == 0
    command = shlex.split(capsys.readouterr().out.partition("next: netadapt-onnx ")[2])
    assert command[-len(shape) :] == shape
    assert run(command) == 0
    assert run([*command, "-o", str(tmp_path / "small.onnx")]) == 0
    follow = shlex.split(capsys.readouterr().out.rpartition("next: netadapt-onnx ")[2])
    assert follow[0] == "diff" and follow[-len(shape) :] == shape
    assert run(follow) == 0


@pytest.mark.seconds
def test_each_next_command_works_where_shapes_were_given(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    b = Builder()
    y = b.conv(b.relu(b.conv("image", 3, 16)), 16, 4)
    model = saved(b.model({"image": ("N", 3, "h", "w")}, {y: ("N", 4, "h", "w")}), tmp_path)
    x = np.random.default_rng(0).standard_normal((32, 3, 8, 6)).astype(np.float32)
    np.savez(tmp_path / "data.npz", x_train=x, x_val=x[:8])
    monkeypatch.chdir(tmp_path)
    data, shape = ["--data", "data.npz"], ["--shape", "image=1x3x8x6"]
    cheap = {"finetune": ["--epochs", "1"], "evaluate": ["--no-latency"]}
    few = ["--max-iterations", "1", "--final-epochs", "0"]
    starts = [
        ["prune", str(model), "--ratio", "0.5", *data, "--reconstruct", "-o", "small.onnx", *shape],
        ["adapt", str(model), *data, "--budget", "macs=0.6x", *few, "-o", "run", *shape],
    ]
    seen = []
    for words in starts:
        for _ in range(5):
            assert run(words) == 0, words
            seen.append(words[0])
            words = shlex.split(capsys.readouterr().out.rpartition("next: netadapt-onnx ")[2])
            words += cheap.get(words[0], [])
            if words[0] == "gate":
                break
        assert run(words) == 0, words
    assert seen == ["prune", "finetune", "evaluate", "diff", "adapt", "evaluate", "diff"]


def test_the_page_that_is_said_to_list_operators_lists_them(tmp_path: Path) -> None:
    proto = in_front()
    proto.graph.node[0].input.append("table")
    proto.graph.initializer.append(helper.make_tensor("table", TensorProto.FLOAT, [4, 4], [0.5] * 16))
    value = helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 3, 8, 8])
    proto.graph.value_info.append(value)
    traced = inspect(saved(proto, tmp_path))
    assert isinstance(traced, Cautioned)
    page = re.search(r"(docs/[\w-]+\.md) lists them", " ".join(traced.notes))
    assert page is not None, traced.notes
    text = (Path(__file__).resolve().parents[2] / page[1]).read_text()
    assert all(operator in text for operator in ("Concat", "Conv", "Resize", "GridSample", "DequantizeLinear"))
