"""Models that are unusual, foreign or wrong: pruned right, or refused in one line that names what is wrong."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import models
from models import custom
from netadapt_onnx.cli import run
from netadapt_onnx.errors import NetadaptError
from netadapt_onnx.graph.fold_shapes import fold
from netadapt_onnx.graph.model import load, save
from netadapt_onnx.graph.passes.pipeline import normalise
from netadapt_onnx.graph.runtime import random_inputs, session
from netadapt_onnx.graph.runtime import run as infer
from netadapt_onnx.graph.weightless import light_copy
from netadapt_onnx.surgery.criteria.selection import importance, select
from netadapt_onnx.surgery.trace import trace
from netadapt_onnx.surgery.verify.prove import verify


def written(proto: onnx.ModelProto, folder: Path) -> Path:
    path = folder / "model.onnx"
    path.write_bytes(proto.SerializeToString())
    return path


def pruned(path: Path, capsys: pytest.CaptureFixture[str], *more: str, exit_code: int = 0) -> dict:  # type: ignore[type-arg]
    """`prune --ratio 0.5` through the command line; its document."""
    code = run(["prune", str(path), "--ratio", "0.5", *more, "--json"])
    out, err = capsys.readouterr()
    assert code == exit_code, out
    assert err.count("\n") == (exit_code == 2)
    output: dict = json.loads(out)  # type: ignore[type-arg]
    return output


def test_an_operator_of_an_unknown_domain_is_pinned_and_the_rest_prunes(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path, small = written(custom(), tmp_path), tmp_path / "small.onnx"
    output = pruned(path, capsys, "-o", str(small))
    assert output["groups"] == {"conv1": [16, 8], "conv3": [12, 6]}
    assert output["verify"] is None
    assert "not proven: onnxruntime has no my.vision::Blur ('blur')" in output["note"]
    assert "assumed to have the shape of its input: blurred" in output["note"]
    proto = onnx.load(str(small))
    blur = next(n for n in proto.graph.node if n.op_type == "Blur")
    assert (blur.domain, list(blur.input), list(blur.output)) == ("my.vision", ["conv2_out"], ["blurred"])
    assert {o.domain: o.version for o in proto.opset_import} == {"": 17, "my.vision": 1}
    assert run(["inspect", str(small), "--json"]) == 0


def test_a_proof_is_refused_by_the_operator_that_onnxruntime_lacks(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = written(custom(), tmp_path)
    for more in (["-o", str(tmp_path / "small.onnx"), "--verify"], []):
        error = pruned(path, capsys, *more, exit_code=2)["error"]
        assert error["code"] == "unverifiable"
        assert "onnxruntime has no my.vision::Blur ('blur')" in error["message"]
    assert not (tmp_path / "small.onnx").exists()


def test_adapting_what_cannot_be_run_is_refused_by_name(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    np.savez(tmp_path / "d.npz", x_train=np.zeros((8, 3, 8, 8), np.float32), x_val=np.zeros((8, 3, 8, 8), np.float32))
    path = written(custom(), tmp_path)
    data = ["--data", str(tmp_path / "d.npz")]
    for command in (
        ["adapt", str(path), *data, "--budget", "macs=0.5x", "-o", str(tmp_path / "run")],
        ["finetune", str(path), *data, "--teacher", str(path), "-o", str(tmp_path / "out.onnx")],
        ["evaluate", str(path), *data],
        ["profile", str(path), "--table", str(tmp_path / "t.jsonl")],
    ):
        assert run(command) == 2
        assert "Blur" in capsys.readouterr().err


def test_declared_shapes_of_foreign_operators_survive_a_cut(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path, small = written(custom(("N", 8, 4, 4)), tmp_path), tmp_path / "small.onnx"
    pruned(path, capsys, "-o", str(small))
    assert fold(load(small).proto).shapes["blurred"] == (1, 8, 4, 4)


def sparse(proto: onnx.ModelProto) -> None:
    """The first weight, two thirds of it zero, as a sparse initializer."""
    tensor = proto.graph.initializer[0]
    values = numpy_helper.to_array(tensor).copy()
    values[np.random.default_rng(0).random(values.shape) < 0.66] = 0
    flat = np.flatnonzero(values)
    stored = helper.make_sparse_tensor(
        numpy_helper.from_array(values.reshape(-1)[flat], tensor.name),
        numpy_helper.from_array(flat.astype(np.int64), f"{tensor.name}_indices"),
        list(values.shape),
    )
    del proto.graph.initializer[0]
    proto.graph.sparse_initializer.append(stored)


def sparse_by_axis(proto: onnx.ModelProto) -> None:
    """The same with an index for each axis."""
    sparse(proto)
    stored = proto.graph.sparse_initializer[0]
    flat = numpy_helper.to_array(stored.indices)
    table = np.stack(np.unravel_index(flat, tuple(stored.dims)), axis=1).astype(np.int64)
    stored.indices.CopyFrom(numpy_helper.from_array(table, stored.indices.name))


def sparse_constant(proto: onnx.ModelProto) -> None:
    sparse(proto)
    stored = proto.graph.sparse_initializer[0]
    name = stored.values.name
    proto.graph.node.insert(0, helper.make_node("Constant", [], [name], name="sparse", sparse_value=stored))
    del proto.graph.sparse_initializer[:]


def inputs_that_are_initializers(proto: onnx.ModelProto) -> None:
    """IR 3."""
    for tensor in proto.graph.initializer:
        proto.graph.input.append(helper.make_tensor_value_info(tensor.name, tensor.data_type, list(tensor.dims)))
    proto.ir_version = 3


def nodes_of_one_name(proto: onnx.ModelProto) -> None:
    for node in proto.graph.node:
        node.name = "node"


def nodes_without_names(proto: onnx.ModelProto) -> None:
    for node in proto.graph.node:
        node.name = ""


def stale_shapes(proto: onnx.ModelProto) -> None:
    proto.graph.value_info.append(helper.make_tensor_value_info("relu1_out", TensorProto.FLOAT, [1, 99, 16, 16]))


def an_unused_empty_constant(proto: onnx.ModelProto) -> None:
    proto.graph.initializer.append(numpy_helper.from_array(np.zeros((0, 4), np.float32), "nothing"))


UNUSUAL = [
    sparse,
    sparse_by_axis,
    sparse_constant,
    inputs_that_are_initializers,
    nodes_without_names,
    stale_shapes,
    an_unused_empty_constant,
]


@pytest.mark.parametrize("change", UNUSUAL, ids=lambda change: change.__name__)
def test_it_prunes_like_any_other(
    change: Callable[[onnx.ModelProto], None], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    proto = models.residual()
    change(proto)
    path, small = written(proto, tmp_path), tmp_path / "small.onnx"
    output = pruned(path, capsys, "-o", str(small), "--verify")
    assert output["verify"]["exact"]
    assert output["verify"]["max_rel_diff"] < 1e-4
    onnx.checker.check_model(str(small), full_check=True)


@pytest.mark.parametrize("change", [sparse, sparse_by_axis, sparse_constant], ids=lambda change: change.__name__)
def test_sparse_weights_are_the_same_dense(change: Callable[[onnx.ModelProto], None]) -> None:
    proto = models.plain((8,))
    change(proto)
    inputs = random_inputs({"image": ((1, 3, 16, 16), np.dtype(np.float32))})
    expected = infer(session(onnx.ModelProto.FromString(proto.SerializeToString())), inputs)["logits"]
    normalise(proto)
    np.testing.assert_allclose(infer(session(proto), inputs)["logits"], expected, atol=1e-6)


def empty_axis(proto: onnx.ModelProto) -> None:
    """A branch over no channels at all, joined to the rest."""
    proto.graph.initializer.append(numpy_helper.from_array(np.zeros((1, 0, 16, 16), np.float32), "none"))
    first = next(n for n in proto.graph.node if n.op_type == "Relu")
    joined = helper.make_node("Concat", [first.output[0], "none"], ["joined"], name="join", axis=1)
    place = list(proto.graph.node).index(first) + 1
    for node in proto.graph.node[place:]:
        for i, name in enumerate(node.input):
            if name == first.output[0]:
                node.input[i] = "joined"
    proto.graph.node.insert(place, joined)


def test_an_axis_of_length_zero_is_no_obstacle(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    proto = models.plain((8, 8))
    for value in proto.graph.input:
        value.type.tensor_type.shape.dim[0].dim_value = 1
    empty_axis(proto)
    assert pruned(written(proto, tmp_path), capsys)["verify"]["exact"]


def duplicate_tensor(proto: onnx.ModelProto) -> None:
    proto.graph.node[2].output[0] = proto.graph.node[1].output[0]


def duplicate_initializer(proto: onnx.ModelProto) -> None:
    proto.graph.initializer.append(proto.graph.initializer[0])


def cycle(proto: onnx.ModelProto) -> None:
    next(n for n in proto.graph.node if n.op_type == "Conv").input[0] = "logits"


def sparse_beyond_its_shape(proto: onnx.ModelProto) -> None:
    sparse(proto)
    proto.graph.sparse_initializer[0].dims[0] = 1


def sparse_terabytes(proto: onnx.ModelProto) -> None:
    sparse(proto)
    proto.graph.sparse_initializer[0].dims[0] = 1 << 40


def operator_of_nobody(proto: onnx.ModelProto) -> None:
    proto.graph.node[0].op_type = "NoSuchOp"


def wrong_channels(proto: onnx.ModelProto) -> None:
    tensor = next(t for t in proto.graph.initializer if t.name == "conv2.weight")
    tensor.CopyFrom(numpy_helper.from_array(np.zeros((24, 5, 3, 3), np.float32), tensor.name))


def wrong_type(proto: onnx.ModelProto) -> None:
    tensor = next(t for t in proto.graph.initializer if t.name == "conv2.weight")
    tensor.CopyFrom(numpy_helper.from_array(np.zeros(tuple(tensor.dims), np.float64), tensor.name))


@pytest.mark.parametrize(
    ("change", "pattern"),
    [
        (duplicate_tensor, "tensor 'conv1_out' is produced twice|'bn1_out' is produced twice"),
        (duplicate_initializer, "two initializers share the name 'conv1.weight'"),
        (nodes_of_one_name, "two nodes with same node name .node."),
        (cycle, "the graph has a cycle"),
        (sparse_beyond_its_shape, "sparse initializer 'conv1.weight' has indices beyond"),
        (sparse_terabytes, "sparse initializer 'conv1.weight' .* is too large"),
        (operator_of_nobody, "NoSuchOp .node 'conv1'."),
        (wrong_channels, "Conv weights .* do not fit the 16 channels of their input .node 'conv2'."),
        (wrong_type, "Conv.*(Type|type).*.node 'conv2'."),
    ],
    ids=lambda value: value.__name__ if callable(value) else "",
)
def test_what_is_wrong_is_named(
    change: Callable[[onnx.ModelProto], None], pattern: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    proto = models.plain()
    change(proto)
    path = written(proto, tmp_path)
    error = pruned(path, capsys, "-o", str(tmp_path / "small.onnx"), exit_code=2)["error"]
    import re

    assert re.search(pattern, error["message"]), error["message"]
    assert run(["inspect", str(path)]) == 2
    assert not (tmp_path / "small.onnx").exists()


def test_strings_beside_the_network_do_not_matter(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    proto = models.plain((8, 8))
    proto.graph.initializer.append(helper.make_tensor("words", TensorProto.STRING, [2], [b"cat", b"dog"]))
    proto.graph.node.append(helper.make_node("Identity", ["words"], ["names"], name="names"))
    proto.graph.output.append(helper.make_tensor_value_info("names", TensorProto.STRING, [2]))
    small = tmp_path / "small.onnx"
    assert pruned(written(proto, tmp_path), capsys, "-o", str(small), "--verify")["verify"]["exact"]
    inputs = random_inputs({"image": ((1, 3, 16, 16), np.dtype(np.float32))})
    assert infer(session(onnx.load(str(small))), inputs)["names"].tolist() == ["cat", "dog"]


@pytest.mark.parametrize("how", ["QOperator", "QDQ", "dynamic"])
def test_models_that_onnxruntime_quantised_prune(how: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    quantization = pytest.importorskip("onnxruntime.quantization")
    path, quantised = written(models.residual(), tmp_path), tmp_path / "int8.onnx"

    class Reader(quantization.CalibrationDataReader):  # type: ignore[misc, name-defined]
        remaining = 4

        def get_next(self) -> dict[str, np.ndarray] | None:
            self.remaining -= 1
            spec = {"image": ((1, 3, 16, 16), np.dtype(np.float32))}
            return random_inputs(spec, self.remaining) if self.remaining >= 0 else None

    if how == "dynamic":
        quantization.quantize_dynamic(path, quantised, weight_type=quantization.QuantType.QUInt8)
    else:
        form = getattr(quantization.QuantFormat, how)
        quantization.quantize_static(path, quantised, Reader(), quant_format=form, per_channel=True)
    capsys.readouterr()
    output = pruned(quantised, capsys, "-o", str(tmp_path / "small.onnx"), "--verify")
    assert output["verify"]["exact"]
    assert sum(after < before for before, after in output["groups"].values()) >= 3
    assert output["after"]["params"] < 0.5 * output["before"]["params"]


@pytest.mark.parametrize("form", ["QLinearConv", "DequantizeLinear"])
def test_what_bytes_stand_for_decides_which_channels_stay(form: str) -> None:
    """Channels with small bytes and large scales are the important ones."""
    b = models.Builder()
    x = b.node("QuantizeLinear", ["image", b.constant("s", np.float32(0.1)), b.constant("z", np.uint8(128))])
    weight = b.constant("w", np.repeat(np.array([[4], [2], [3], [1]], np.int8), 3, 1).reshape(4, 3, 1, 1))
    weight_inputs = [
        weight,
        b.constant("ws", np.array([0.1, 0.4, 0.2, 0.9], np.float32)),
        b.constant("wz", np.zeros(4, np.int8)),
    ]
    if form == "QLinearConv":
        y = b.node("QLinearConv", [x, "s", "z", *weight_inputs, "s", "z"], "conv")
        y = b.node("DequantizeLinear", [y, "s", "z"])
    else:
        real = b.node("DequantizeLinear", [x, "s", "z"])
        y = b.node("Conv", [real, b.node("DequantizeLinear", weight_inputs, axis=0)], "conv")
    b.conv(y, 4, 2, 1, name="last")
    proto = b.model({"image": (1, 3, 4, 4)}, {"last_out": (1, 2, 4, 4)})
    normalise(proto)
    model_trace = trace(fold(proto))
    assert importance(model_trace)["conv"] == pytest.approx(np.sqrt(3) * np.array([0.4, 0.8, 0.6, 0.9]), rel=1e-6)


def test_a_model_beyond_the_limit_of_protobuf_is_written_beside_its_weights(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As files above 2 GiB are, tried with a lower limit."""
    monkeypatch.setattr("netadapt_onnx.graph.model.PROTOBUF_LIMIT", 10_000)
    proto = models.residual()
    save(proto, tmp_path / "large.onnx")
    assert (tmp_path / "large.onnx").stat().st_size < 10_000 < (tmp_path / "large.onnx.data").stat().st_size
    monkeypatch.undo()
    model = load(tmp_path / "large.onnx")
    assert model.size_bytes > 30_000
    assert len(model.files) == 2
    traced = trace(fold(model.proto))
    assert verify(traced, select(traced, {"conv1": 8, "conv2": 4})).exact


def test_weights_never_pass_through_a_serialised_model() -> None:
    """What goes to onnxruntime as a protobuf stays small, so that 2 GiB are no limit there."""
    light, weights = light_copy(models.fully_connected(hidden=512))
    assert len(light.SerializeToString()) < 8_000
    assert sum(v.nbytes for v in weights.values()) > 500_000


def test_an_operator_that_nobody_has_is_an_error_in_any_domain_of_onnx() -> None:
    proto = models.plain((8,))
    operator_of_nobody(proto)
    normalise(proto)
    with pytest.raises(NetadaptError, match="neither ONNX nor onnxruntime has an operator NoSuchOp"):
        fold(proto)
