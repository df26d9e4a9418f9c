"""A model as a module of somebody's training: the file's names, and all that torch does with modules."""

from __future__ import annotations

import copy
import io
import pickle
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper
from torch import Tensor

import models
import netadapt_onnx
from netadapt_onnx.errors import NetadaptError
from netadapt_onnx.graph.inputs import input_specs
from netadapt_onnx.graph.runtime import random_inputs, run, session
from netadapt_onnx.training.onnx_module import OnnxModule

NAMES = "import netadapt_onnx, sys; print(list(netadapt_onnx.to_torch(sys.argv[1]).state_dict()))"


def module_of(proto: onnx.ModelProto, folder: Path) -> OnnxModule:
    onnx.save(proto, folder / "model.onnx")
    return netadapt_onnx.to_torch(folder / "model.onnx")


def output(module: OnnxModule, *inputs: Tensor) -> Tensor:
    value = module(*inputs)
    assert isinstance(value, Tensor)
    return value


@pytest.mark.parametrize("build", models.ALL.values(), ids=models.ALL.keys())
def test_parameters_have_the_names_and_the_outputs_of_the_file(
    build: Callable[[], onnx.ModelProto], tmp_path: Path
) -> None:
    proto = build()
    module = module_of(proto, tmp_path).eval()
    values = {t.name: numpy_helper.to_array(t) for t in proto.graph.initializer}
    assert set(module.state_dict()) == set(values)
    for name, value in module.state_dict().items():
        np.testing.assert_array_equal(value.numpy(), values[name])
    inputs = random_inputs(input_specs(proto, batch_size=2), 0)
    (expected,) = run(session(proto), inputs).values()
    actual = output(module, *(torch.from_numpy(value) for value in inputs.values()))
    np.testing.assert_allclose(actual.detach().numpy(), expected, rtol=0, atol=1e-4 * float(expected.std()))


def test_bytes_for_an_input_of_floats_are_refused_by_name(tmp_path: Path) -> None:
    module = module_of(models.plain((8, 8), size=8), tmp_path)
    with pytest.raises(NetadaptError, match=r"input 'image' takes floats, not uint8; .*mean"):
        module(torch.zeros(2, 3, 8, 8, dtype=torch.uint8))


def test_names_that_torch_does_not_allow_get_underscores_and_are_listed(tmp_path: Path) -> None:
    proto = models.plain((8, 8))
    renamed = {"conv1.weight": "a", "bn1.scale": "a.b", "bn1.bias": "a.b.c", "conv2.weight": "train", "bn2.bias": "..x"}
    renamed |= {"bn2.scale": "a_.b", "fc1.bias": "a_"}
    for tensor in proto.graph.initializer:
        tensor.name = renamed.get(tensor.name, tensor.name)
    for node in proto.graph.node:
        node.input[:] = [renamed.get(name, name) for name in node.input]
    module = module_of(proto, tmp_path)
    state = module.state_dict()
    assert set(module.initializers) == set(state)
    assert sorted(module.initializers.values()) == sorted(t.name for t in proto.graph.initializer)
    assert module.initializers["train_"] == "train"
    assert module.initializers["_._.x"] == "..x"
    values = {t.name: numpy_helper.to_array(t) for t in proto.graph.initializer}
    for name, initializer in module.initializers.items():
        np.testing.assert_array_equal(state[name].numpy(), values[initializer])
    netadapt_onnx.from_torch(module, tmp_path / "again.onnx")
    again = {t.name: numpy_helper.to_array(t) for t in onnx.load(tmp_path / "again.onnx").graph.initializer}
    assert all(np.array_equal(values[name], again[name]) for name in values)


def test_another_process_names_the_state_alike(tmp_path: Path) -> None:
    module = module_of(models.residual(), tmp_path)
    command = [sys.executable, "-c", NAMES, str(tmp_path / "model.onnx")]
    printed = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert printed.strip() == str(list(module.state_dict()))
    assert list(netadapt_onnx.to_torch(tmp_path / "model.onnx").state_dict()) == list(module.state_dict())


def test_a_saved_state_is_loaded_into_another_module(tmp_path: Path) -> None:
    module, image = module_of(models.residual(), tmp_path), torch.randn(4, 3, 16, 16)
    module.train()(image)  # which moves the statistics
    with torch.no_grad():
        for parameter in module.parameters():
            parameter += 0.1
    stream = io.BytesIO()
    torch.save(module.state_dict(), stream)
    stream.seek(0)
    other = netadapt_onnx.to_torch(tmp_path / "model.onnx").eval()
    assert not torch.equal(output(other, image), output(module.eval(), image))
    other.load_state_dict(torch.load(stream, weights_only=True))
    assert torch.equal(output(other, image), output(module, image))


@pytest.mark.parametrize("duplicate", [copy.deepcopy, lambda module: pickle.loads(pickle.dumps(module))])
def test_copies_share_no_weights(duplicate: Callable[[OnnxModule], OnnxModule], tmp_path: Path) -> None:
    module, image = module_of(models.residual(), tmp_path).eval(), torch.randn(2, 3, 16, 16)
    before = output(module, image)
    twin = duplicate(module)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.zero_()
    assert torch.equal(output(twin, image), before)
    assert not torch.equal(output(module, image), before)
    netadapt_onnx.from_torch(twin, tmp_path / "twin.onnx")
    (written,) = run(session(onnx.load(tmp_path / "twin.onnx")), {"image": image.numpy()}).values()
    np.testing.assert_allclose(written, before.detach().numpy(), rtol=0, atol=1e-4)


def test_statistics_move_in_training_mode_only(tmp_path: Path) -> None:
    module, image = module_of(models.plain(), tmp_path), torch.randn(4, 3, 16, 16)
    assert module.training
    before = {name: value.clone() for name, value in module.named_buffers()}
    module.eval()(image)
    assert all(torch.equal(value, before[name]) for name, value in module.named_buffers())
    module.train()(image)
    assert not any(torch.equal(value, before[name]) for name, value in module.named_buffers())


def test_a_type_that_is_set_reaches_constants_too(tmp_path: Path) -> None:
    b = models.Builder()
    x = b.node("Mul", [b.conv("image", 3, 4), b.constant("half", np.float32(0.5))])  # no weight: it stays a constant
    proto = b.model({"image": ("N", 3, 4, 4)}, {x: ("N", 4, 4, 4)})
    image = torch.randn(1, 3, 4, 4)
    module = module_of(proto, tmp_path)
    assert "half" not in module.state_dict()
    expected = output(module, image).detach()
    values = output(module.double(), image.double()).detach()
    assert values.dtype == torch.float64
    assert float((values - expected).abs().max()) < 1e-5


def test_several_inputs_and_outputs_go_by_order_or_by_name(tmp_path: Path) -> None:
    b = models.Builder()
    b.node("Add", [b.conv("a", 3, 4), b.conv("b", 3, 4)], output="sum")
    b.node("Relu", ["sum"], output="positive")
    proto = b.model({"a": ("N", 3, 4, 4), "b": ("N", 3, 4, 4)}, {"sum": ("N", 4, 4, 4), "positive": ("N", 4, 4, 4)})
    module = module_of(proto, tmp_path)
    a, b_ = torch.randn(2, 1, 3, 4, 4)
    expected = module(a, b_)
    assert isinstance(expected, dict) and list(expected) == ["sum", "positive"]
    for values in (module(b=b_, a=a), module(a, b=b_), module({"b": b_, "a": a})):
        assert isinstance(values, dict) and all(torch.equal(values[name], expected[name]) for name in expected)
    with pytest.raises(NetadaptError, match="lack b: the model takes a, b"):
        module(a)
    with pytest.raises(NetadaptError, match="have c: the model takes a, b"):
        module(a, b_, c=a)
    with pytest.raises(NetadaptError, match="has 2 inputs: a, b; got more"):
        module(a, a, a)


def test_a_model_without_weights_is_refused(tmp_path: Path) -> None:
    b = models.Builder()
    b.node("Relu", ["x"], output="y")
    with pytest.raises(NetadaptError, match="no weights to train"):
        module_of(b.model({"x": (1, 4)}, {"y": (1, 4)}), tmp_path)


def test_inputs_of_the_type_that_the_file_takes_are_accepted(tmp_path: Path) -> None:
    make, value, half = onnx.helper, onnx.helper.make_tensor_value_info, onnx.TensorProto.FLOAT16
    weight = numpy_helper.from_array(np.ones((3, 4), np.float16), "w")
    node = make.make_node("Gemm", ["x", "w"], ["y"], transB=1)
    graph = make.make_graph([node], "g", [value("x", half, ["N", 4])], [value("y", half, ["N", 3])], [weight])
    module = module_of(make.make_model(graph, opset_imports=[make.make_opsetid("", 17)], ir_version=8), tmp_path)
    x = torch.ones(2, 4, dtype=torch.float16)
    assert output(module, x).tolist() == output(module, x.float()).tolist() == [[4.0] * 3] * 2
    assert output(module.half(), x).dtype == torch.float16
