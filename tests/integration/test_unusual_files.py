"""What ONNX allows and few exporters write is cut exactly, and its outputs stay what they were."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

import netadapt_onnx
from gate_fixtures import save
from models import Builder
from netadapt_onnx.errors import NetadaptError
from netadapt_onnx.graph.model import load


def convolutions(inputs: list[str] | None = None, *, ir_version: int = 8) -> onnx.ModelProto:
    """Two convolutions with a Relu between them, and `inputs` among the inputs that the file lists."""
    b = Builder()
    b.conv(b.relu(b.conv("x", 3, 8)), 8, 4)
    proto = b.model({"x": (1, 3, 8, 8)}, {"conv2_out": (1, 4, 8, 8)})
    shapes = {tensor.name: list(tensor.dims) for tensor in b.initializers}
    for name in inputs or []:
        proto.graph.input.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, shapes[name]))
    proto.ir_version = ir_version
    return proto


def with_outputs(proto: onnx.ModelProto, *names: str) -> onnx.ModelProto:
    shapes = {t.name: list(t.dims) for t in proto.graph.initializer} | {"x": [1, 3, 8, 8]}
    for name in names:
        proto.graph.output.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, shapes.get(name)))
    return proto


def returned_first() -> onnx.ModelProto:
    proto = with_outputs(convolutions(), "conv2.weight")
    proto.graph.output.reverse()
    return proto


def returned_constant() -> onnx.ModelProto:
    proto = with_outputs(convolutions(), "k")
    proto.graph.node.add(op_type="Constant", output=["k"]).attribute.append(helper.make_attribute("value_ints", [3, 4]))
    proto.graph.output[1].type.tensor_type.elem_type = TensorProto.INT64
    return proto


def returned_through_identity() -> onnx.ModelProto:
    proto = with_outputs(convolutions(), "k")
    proto.graph.node.append(helper.make_node("Identity", ["conv2.weight"], ["k"]))
    return proto


def unread_weight() -> onnx.ModelProto:
    proto = convolutions()
    proto.graph.initializer.append(numpy_helper.from_array(np.ones((40, 40), np.float32), "unread"))
    return proto


def empty_weight() -> onnx.ModelProto:
    proto = convolutions()
    proto.graph.initializer.append(numpy_helper.from_array(np.ones((0, 1 << 20), np.float32), "empty"))
    return proto


def unread_input() -> onnx.ModelProto:
    proto = convolutions()
    proto.graph.input.append(helper.make_tensor_value_info("unread", TensorProto.FLOAT, [1, 5]))
    return proto


def nameless_graph() -> onnx.ModelProto:
    proto = convolutions()
    proto.graph.name = ""
    return proto


def unsorted() -> onnx.ModelProto:
    proto = convolutions()
    proto.graph.node.reverse()
    return proto


ALLOWED: dict[str, Callable[[], onnx.ModelProto]] = {
    "initializer is an output": lambda: with_outputs(convolutions(), "conv2.weight"),
    "initializer is the first output": returned_first,
    "bias is an output": lambda: with_outputs(convolutions(), "conv1.bias"),
    "initializer is an input and an output": lambda: with_outputs(convolutions(["conv1.weight"]), "conv1.weight"),
    "initializers are inputs": lambda: convolutions(["conv1.weight", "conv2.weight"]),
    "initializers are inputs, as they have to be in IR 3": lambda: convolutions(
        ["conv1.weight", "conv1.bias", "conv2.weight", "conv2.bias"], ir_version=3
    ),
    "input is an output": lambda: with_outputs(convolutions(), "x"),
    "everything is an output": lambda: with_outputs(convolutions(), "x", "conv1.weight", "conv2.weight", "conv1.bias"),
    "constant is an output": returned_constant,
    "initializer is an output through Identity": returned_through_identity,
    "output twice": lambda: with_outputs(convolutions(), "conv2_out"),
    "weight that nothing reads": unread_weight,
    "empty weight": empty_weight,
    "input that nothing reads": unread_input,
    "graph without a name": nameless_graph,
    "nodes in any order": unsorted,
}


@pytest.mark.parametrize("name", ALLOWED)
def test_what_onnx_allows_is_cut_and_keeps_its_outputs(name: str, tmp_path: Path) -> None:
    proto = ALLOWED[name]()
    path = save(proto, tmp_path / "m.onnx")
    assert netadapt_onnx.inspect(path).groups[0].prunable
    cut = netadapt_onnx.prune(path, tmp_path / "o.onnx", ratio=0.5, check=True)
    assert cut.verify is not None and cut.verify.exact and cut.groups == {"conv1": (8, 4)}
    outputs = [outputs_of(file) for file in (path, tmp_path / "o.onnx")]
    assert [list(side) for side in outputs] == [list(dict.fromkeys(value.name for value in proto.graph.output))] * 2
    for key, before in outputs[0].items():
        assert outputs[1][key].shape == before.shape
        if key != "conv2_out":  # constants and inputs are what they were
            np.testing.assert_array_equal(outputs[1][key], before)


def outputs_of(path: Path) -> dict[str, np.ndarray]:
    """What a model puts out for an input of ones."""
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    feeds = {value.name: np.ones(value.shape, np.float32) for value in session.get_inputs()}
    names = [value.name for value in session.get_outputs()]
    return dict(zip(names, session.run(names, feeds), strict=True))


@pytest.mark.usefixtures("fixed_training_settings")
@pytest.mark.parametrize("name", ["initializer is an output", "input is an output", "input that nothing reads"])
def test_every_command_takes_them(name: str, tmp_path: Path) -> None:
    path = save(ALLOWED[name](), tmp_path / "m.onnx")
    rng = np.random.default_rng(0)
    inputs = {
        value.name: [d.dim_value for d in value.type.tensor_type.shape.dim] for value in onnx.load(path).graph.input
    }
    arrays = {
        f"x_{split}.{key}": rng.standard_normal((8, *shape[1:])).astype(np.float32)
        for split in ("train", "val")
        for key, shape in inputs.items()
    }
    np.savez(tmp_path / "d.npz", **arrays)  # type: ignore[arg-type]  # numpy's stubs take `allow_pickle` for one
    assert netadapt_onnx.diff(path, path).layers == ()
    assert netadapt_onnx.evaluate(path, tmp_path / "d.npz").models[0].accuracy == 1
    assert netadapt_onnx.gate(path, max={"size": "1MB"}).ok
    tuned = netadapt_onnx.finetune(path, tmp_path / "d.npz", tmp_path / "t.onnx", teacher=path, epochs=1, lr=0.01)
    assert outputs_of(tuned.model).keys() == outputs_of(path).keys()
    run = netadapt_onnx.adapt(
        path, tmp_path / "d.npz", "macs=0.8x", tmp_path / "run", step=1, init_reduction_ratio=0.2, final_epochs=0
    )
    assert run.met and outputs_of(run.model).keys() == outputs_of(path).keys()


def test_a_model_without_inputs_or_outputs_is_refused_by_what_it_lacks(tmp_path: Path) -> None:
    proto = convolutions()
    proto.graph.initializer.append(numpy_helper.from_array(np.ones((1, 3, 8, 8), np.float32), "x"))
    del proto.graph.input[:]
    path = save(proto, tmp_path / "m.onnx")
    assert netadapt_onnx.inspect(path).groups == ()
    np.savez(tmp_path / "d.npz", x_val=np.ones(3))
    with pytest.raises(NetadaptError, match="the model has no inputs"):
        netadapt_onnx.evaluate(path, tmp_path / "d.npz")
    del proto.graph.output[:]
    with pytest.raises(NetadaptError, match="has no outputs"):
        load(save(proto, tmp_path / "m.onnx"))
