"""An ONNX graph in torch: the same numbers, with any batch size, parameters under their own names, and back."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper

from models import ALL, Builder, channels_last, plain, residual
from netadapt_onnx.errors import NetadaptError
from netadapt_onnx.graph.fold_shapes import fold
from netadapt_onnx.graph.inputs import input_specs
from netadapt_onnx.graph.model import load
from netadapt_onnx.graph.runtime import Arrays, random_inputs, run, session
from netadapt_onnx.training.initialise import initialised
from netadapt_onnx.training.torch_graph import TorchGraph
from netadapt_onnx.training.weights import trainable

REAL = [
    "resnet20_cifar10",
    "resnet20_cifar10_folded",
    "espcn_subpixel_float",
    "fastestdet",
    "minifasnet_v2",
    "qonnx_mnist_conv",
    "ultraface_rfb320_simplified",
    "ultraface_slim320",
    "bodypix_mnv1_050_s16",
    "light_resnet50",
    "light_squeezenet",
]
# What a file leaves open, as small as the model takes.
OPEN = {"bodypix_mnv1_050_s16": {"input": (1, 97, 97, 3)}}


def in_torch(graph: TorchGraph, inputs: Arrays) -> Arrays:
    with torch.no_grad():
        values = graph({name: torch.from_numpy(value) for name, value in inputs.items()})
    return {name: value.numpy() for name, value in values.items()}


def difference(values: Arrays, expected: Arrays) -> float:
    """The largest difference over all outputs, in standard deviations of the reference."""
    assert values.keys() == expected.keys()
    return max(float(np.abs(values[k] - expected[k]).max() / max(expected[k].std(), 1e-3)) for k in expected)


@pytest.mark.parametrize("build", ALL.values(), ids=ALL.keys())
@pytest.mark.parametrize("batch", [1, 3])
def test_outputs_equal_onnxruntime(build: Callable[[], onnx.ModelProto], batch: int) -> None:
    proto = build()
    singles = [random_inputs(input_specs(proto), seed) for seed in range(batch)]
    active = session(proto)
    expected = [run(active, inputs) for inputs in singles]
    stacked = {name: np.concatenate([inputs[name] for inputs in singles]) for name in singles[0]}
    values = in_torch(TorchGraph(proto).eval(), stacked)
    assert difference(values, {k: np.concatenate([w[k] for w in expected]) for k in expected[0]}) < 1e-4


@pytest.mark.parametrize("name", REAL)
def test_real_models_equal_onnxruntime_with_any_batch(name: str, real_models: Path) -> None:
    proto = load(real_models / f"{name}.onnx").proto
    if name.startswith("light"):  # all of its weights are one constant: no output would depend on the input
        proto = initialised(fold(proto).proto, 0)
    graph = TorchGraph(fold(proto, OPEN.get(name)).proto).eval()
    singles = [random_inputs(input_specs(proto, OPEN.get(name)), seed) for seed in range(2)]
    active = session(proto)
    expected = [run(active, inputs) for inputs in singles]
    values = in_torch(graph, {k: np.concatenate([inputs[k] for inputs in singles]) for k in singles[0]})
    assert difference(values, {k: np.concatenate([w[k] for w in expected]) for k in expected[0]}) < 1e-4


@pytest.mark.parametrize("build", ALL.values(), ids=ALL.keys())
def test_training_steps_survive_the_way_back_into_the_graph(build: Callable[[], onnx.ModelProto]) -> None:
    proto = build()
    graph = TorchGraph(proto).train()
    optimiser = torch.optim.SGD(graph.parameters(), lr=1e-3)
    specs = input_specs(proto, batch_size=4)
    for seed in range(3):
        drawn = random_inputs(specs, seed)
        inputs = {k: torch.from_numpy(np.repeat(v, 4 // len(v), 0)) for k, v in drawn.items()}
        optimiser.zero_grad()
        torch.autograd.backward([value.pow(2).mean() for value in graph(inputs).values()])
        optimiser.step()
    written = graph.write_back(proto)
    onnx.checker.check_model(written, full_check=True)
    drawn = random_inputs(input_specs(proto), 9)
    assert difference(in_torch(graph.eval(), drawn), run(session(written), drawn)) < 1e-4
    moved = changed(proto, written)
    assert moved == set(graph.weights) | set(graph.statistics)


def changed(before: onnx.ModelProto, after: onnx.ModelProto) -> set[str]:
    """Names of the initializers that differ; anything else must not."""
    old, new = ({t.name: numpy_helper.to_array(t) for t in p.graph.initializer} for p in (before, after))
    assert list(old) == list(new)
    rest = []
    for proto in (before, after):
        copy = onnx.ModelProto.FromString(proto.SerializeToString())
        del copy.graph.initializer[:]
        rest.append(copy.SerializeToString(deterministic=True))
    assert rest[0] == rest[1]
    return {name for name in old if not np.array_equal(old[name], new[name])}


def test_every_weight_gets_a_gradient() -> None:
    proto = residual()
    graph = TorchGraph(proto).train()
    torch.autograd.backward(graph(torch.randn(4, 3, 16, 16))["logits"].pow(2).mean())
    assert set(graph.weights) == {t.name for t in proto.graph.initializer} - set(graph.statistics)
    for name, weight in graph.weights.items():
        assert weight.grad is not None, name
        assert float(weight.grad.abs().max()) > 0, name


def test_batchnorm_statistics_move_in_training_mode_only() -> None:
    graph = TorchGraph(plain())
    before = graph.state()
    graph.eval()(torch.randn(8, 3, 16, 16))
    assert all(torch.equal(value, before[name]) for name, value in graph.statistics.items())
    graph.train()(torch.randn(8, 3, 16, 16))
    assert not any(torch.equal(value, before[name]) for name, value in graph.statistics.items())
    graph.restore(before)
    assert all(torch.equal(value, before[name]) for name, value in graph.state().items())


def test_affine_vectors_behind_a_layer_are_weights() -> None:
    proto = channels_last()
    kinds = trainable(proto.graph)
    assert set(kinds) == {t.name for t in proto.graph.initializer}
    assert (kinds["conv1.weight"], kinds["conv1.scale"], kinds["conv1.shift"]) == ("weight", "norm", "bias")


def test_constants_that_are_no_weights_stay_as_they_are() -> None:
    """A detector's decoding: strides, a grid of whole numbers, and a scale behind a Sigmoid."""
    b = Builder()
    x = b.conv("image", 3, 8)
    x = b.node("Mul", [x, b.constant("stride", np.array([8.0], np.float32))])
    x = b.node("Add", [x, b.constant("grid", np.arange(8, dtype=np.float32).reshape(1, 8, 1, 1))])
    x = b.node(
        "Mul", [b.node("Sigmoid", [x]), b.constant("anchors", np.array([1.5] * 7 + [2.5], np.float32).reshape(8, 1, 1))]
    )
    b.node("Relu", [x], output="boxes")
    proto = b.model({"image": ("N", 3, 8, 8)}, {"boxes": ("N", 8, 8, 8)})
    assert set(trainable(proto.graph)) == {"conv1.weight", "conv1.bias"}


def test_views_of_an_initializer_train_the_initializer() -> None:
    b = Builder()
    weight = b.node("Transpose", [b.random("dense.weight", (10, 12), 12)], perm=[1, 0])
    x = b.node("MatMul", ["x", weight])
    bias = b.node("Reshape", [b.random("dense.bias", (10,)), b.constant("shape", np.array([1, 10]))])
    b.node("Add", [x, bias], output="y")
    proto = b.model({"x": ("N", 12)}, {"y": ("N", 10)})
    graph = TorchGraph(proto)
    assert graph.kinds == {"dense.weight": "weight", "dense.bias": "bias"}
    torch.autograd.backward(graph(torch.randn(5, 12))["y"].sum())
    assert graph.weights["dense.weight"].grad is not None
    assert graph.weights["dense.weight"].grad.shape == (10, 12)


def test_shape_arithmetic_follows_the_batch() -> None:
    b = Builder()
    size = b.node("Gather", [b.node("Shape", ["x"]), b.constant("zero", np.array(0))], axis=0)
    size = b.node("Unsqueeze", [size, b.constant("first", np.array([0]))])
    target = b.node("Concat", [size, b.constant("rest", np.array([-1]))], axis=0)
    b.node("Reshape", [b.node("Relu", ["x"]), target], output="y")
    graph = TorchGraph(b.model({"x": ("N", 3, 4)}, {"y": ("N", "M")}))
    assert [tuple(graph(torch.zeros(n, 3, 4))["y"].shape) for n in (1, 5)] == [(1, 12), (5, 12)]


def test_a_reshape_written_for_one_sample_follows_the_batch() -> None:
    """Windows of a fixed-batch export: the batch is merged into another axis and taken apart again."""
    b = Builder()
    x = b.node("Reshape", ["x", b.constant("windows", np.array([1, 2, 4, 2, 4, 3]))])
    x = b.node("Transpose", [x], perm=[0, 1, 3, 2, 4, 5])
    x = b.node("Reshape", [x, b.constant("merged", np.array([4, 16, 3]))])
    x = b.node("Mul", [x, b.random("scale", (16, 3))])
    b.node("Reshape", [x, b.constant("flat", np.array([1, -1]))], output="y")
    proto = b.model({"x": (1, 8, 8, 3)}, {"y": (1, 192)})
    singles = [random_inputs(input_specs(proto), seed)["x"] for seed in range(3)]
    expected = np.concatenate([run(session(proto), {"x": x})["y"] for x in singles])
    values = in_torch(TorchGraph(proto), {"x": np.concatenate(singles)})["y"]
    np.testing.assert_allclose(values, expected, rtol=0, atol=1e-6)


def test_an_expand_written_for_one_sample_follows_the_batch() -> None:
    """Swin's cosine attention divides by norms that were expanded to the shape of what they are norms of."""
    b = Builder()
    x = b.node("Reshape", ["x", b.constant("windows", np.array([4, 16, 3]))])
    norm = b.node("ReduceL2", [x], axes=[2])
    norm = b.node("Expand", [norm, b.constant("target", np.array([4, 16, 3]))])
    x = b.node("Div", [x, norm])
    b.node("Reshape", [x, b.constant("flat", np.array([1, -1]))], output="y")
    proto = b.model({"x": (1, 64, 3)}, {"y": (1, 192)})
    singles = [random_inputs(input_specs(proto), seed)["x"] for seed in range(3)]
    expected = np.concatenate([run(session(proto), {"x": x})["y"] for x in singles])
    values = in_torch(TorchGraph(proto), {"x": np.concatenate(singles)})["y"]
    np.testing.assert_allclose(values, expected, rtol=0, atol=1e-6)


def test_half_precision_weights_train_in_float32_and_return_as_half() -> None:
    b = Builder()
    tensor = numpy_helper.from_array(b.rng.standard_normal((4, 6)).astype(np.float16), "w")
    b.initializers.append(tensor)
    node = onnx.helper.make_node("Gemm", ["x", "w"], ["y"], "fc", transB=1)
    half = onnx.TensorProto.FLOAT16
    proto = onnx.helper.make_model(
        onnx.helper.make_graph(
            [node],
            "half",
            [onnx.helper.make_tensor_value_info("x", half, ["N", 6])],
            [onnx.helper.make_tensor_value_info("y", half, ["N", 4])],
            b.initializers,
        )
    )
    graph = TorchGraph(proto)
    assert graph.weights["w"].dtype == torch.float32
    (written,) = graph.write_back(proto).graph.initializer
    assert written.data_type == half
    assert np.array_equal(numpy_helper.to_array(written), numpy_helper.to_array(tensor))


def test_writing_into_another_model_is_refused() -> None:
    with pytest.raises(NetadaptError, match=r"'conv1.weight' of shape \(16, 3, 3, 3\) is of shape \(8, 3, 3, 3\)"):
        TorchGraph(plain((16, 24, 32))).write_back(plain((8, 24, 32)))
