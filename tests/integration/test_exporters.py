"""What exporters other than torch's write: old opsets, statistics put out, channels-last norms, rotary angles, QDQ."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import models
from netadapt_onnx.graph.fold_shapes import fold
from netadapt_onnx.surgery.criteria.selection import select
from netadapt_onnx.surgery.cut import KeptIndices
from netadapt_onnx.surgery.labels import Choices
from netadapt_onnx.surgery.resize import resize
from netadapt_onnx.surgery.trace import Trace, trace
from netadapt_onnx.surgery.verify.prove import verify
from tracing import trace_model

SIZE = 8


def halved(model_trace: Trace) -> KeptIndices:
    return select(model_trace, {g.name: max(g.floor, g.channels // 2 // g.step * g.step) for g in model_trace.prunable})


def groups(model_trace: Trace) -> dict[str, tuple[int, int]]:
    return {g.name: (g.channels, g.step) for g in model_trace.prunable}


def assert_halves_exactly(model_trace: Trace) -> onnx.ModelProto:
    """Cut in halves; returns the model, whose shapes are those that the trace predicts."""
    keep = halved(model_trace)
    pruned = resize(model_trace, keep)
    result = verify(model_trace, keep, pruned=pruned)
    assert result.exact, result
    shapes = fold(pruned).shapes
    predicted = model_trace.resized_shapes(keep)
    assert {name: predicted[name] for name in shapes if name in predicted} == shapes
    return pruned


def model(b: models.Builder, x: tuple[int, ...], y: str) -> onnx.ModelProto:
    """Initializers are inputs too, as they had to be before IR 4."""
    declared = [helper.make_tensor_value_info(t.name, t.data_type, list(t.dims)) for t in b.initializers]
    image = helper.make_tensor_value_info("x", TensorProto.FLOAT, x)
    output = helper.make_tensor_value_info(y, TensorProto.FLOAT, None)
    graph = helper.make_graph(b.nodes, "old", [image, *declared], [output], b.initializers)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", b.opset)], ir_version=3)


def old(opset: int) -> onnx.ModelProto:
    """Conv, Relu, a reshape, two Gemms with Dropout and its mask between them."""
    b = models.Builder(opset=opset)
    x = b.node("Relu", [b.conv("x", 3, 12)])
    if opset < 5:
        x = b.node("Reshape", [x], shape=[1, -1])
    else:
        x = b.node("Reshape", [x, b.constant("flat", np.array([1, -1]))])
    flags = {"broadcast": 1} if opset < 7 else {}
    x = b.node("Gemm", [x, b.random("fc.W", (10, 12 * SIZE**2), 768), b.random("fc.b", (10,))], "fc", transB=1, **flags)
    b.nodes.append(helper.make_node("Dropout", [x], ["kept", "mask"], name="dropout", ratio=0.5))
    if opset < 7:
        b.nodes[-1].attribute.append(helper.make_attribute("is_test", 1))
    b.node("Gemm", ["kept", b.random("last.W", (5, 10), 10), b.random("last.b", (5,))], "last", transB=1, **flags)
    return model(b, (1, 3, SIZE, SIZE), "last_out")


@pytest.mark.parametrize("opset", [3, 6, 7])
def test_models_from_before_opset_7_are_brought_there_and_cut(opset: int) -> None:
    model_trace = trace_model(old(opset))
    assert groups(model_trace) == {"conv1": (12, 1), "fc": (10, 1)}
    pruned = assert_halves_exactly(model_trace)
    assert [o.version for o in pruned.opset_import] == [7]


def test_a_tensor_of_unknown_shape_keeps_its_channels() -> None:
    model_trace = trace(fold(old(6)))  # not brought to opset 7: no inference knows the mask's shape
    assert [g.reason for g in model_trace.groups][1] == "the shape of 'mask' is not known ('dropout')"


@pytest.mark.parametrize("opset", [8, 14])
def test_statistics_that_batch_normalisation_puts_out_are_cut_with_it(opset: int) -> None:
    b = models.Builder(opset=opset)
    x = b.batchnorm(b.conv("x", 3, 12), 12)
    statistics = ["mean", "var", "saved_mean", "saved_var"] if opset < 14 else ["mean", "var"]
    b.nodes[-1].output.extend(statistics)
    if opset >= 14:
        b.nodes[-1].attribute.append(helper.make_attribute("training_mode", 1))
    b.conv(b.relu(x), 12, 5, name="last")
    model_trace = trace_model(model(b, (2, 3, SIZE, SIZE), "last_out"))
    assert groups(model_trace) == {"conv1": (12, 1)}
    assert fold(assert_halves_exactly(model_trace)).shapes["mean"] == (6,)


def test_a_channels_last_norm_of_pools_leaves_channels_free() -> None:
    b = models.Builder()
    x = b.node(
        "Transpose", [b.node("Squeeze", [b.conv("x", 3, 12), b.constant("axis", np.array([3]))])], perm=[0, 2, 1]
    )
    centred = b.node("Sub", [x, b.node("GlobalAveragePool", [x])])
    variance = b.node("GlobalAveragePool", [b.node("Mul", [centred, centred])])
    deviation = b.node("Sqrt", [b.node("Add", [variance, b.constant("epsilon", np.float32(1e-3))])])
    scale = b.node("Mul", [b.node("Reciprocal", [deviation]), b.random("scale", (1, 1, 12))])
    x = b.node("Add", [x, b.node("Mul", [centred, scale])])
    b.node("MatMul", [x, b.random("last.W", (12, 5), 12)], "last")
    model_trace = trace_model(model(b, (1, 3, SIZE, 1), "last_out"))
    assert groups(model_trace) == {"conv1": (12, 1)}
    pruned = assert_halves_exactly(model_trace)
    assert next(tuple(t.dims) for t in pruned.graph.initializer if t.name == "scale") == (1, 1, 6)


@pytest.mark.parametrize("constant", [True, False])
def test_rotary_angles_do_not_tie_heads(constant: bool) -> None:
    """Queries and keys are turned by angles (tokens, dimensions), stored or computed from positions."""
    heads, dim, tokens = 3, 4, 5
    b = models.Builder()
    if constant:
        angles = b.random("angles", (1, 1, tokens, dim))
    else:
        angles = b.node("MatMul", ["positions", b.random("frequencies", (1, dim))])
        angles = b.node("Unsqueeze", [angles, b.constant("front", np.array([1]))])
    turned = []
    for name in ("q", "k"):
        y = b.node("MatMul", ["x", b.random(f"{name}.W", (heads * dim, heads * dim), heads * dim)], name)
        y = b.node("Reshape", [y, b.constant(f"{name}.split", np.array([0, 0, heads, dim]))])
        y = b.node("Transpose", [y], perm=[0, 2, 1, 3])
        turned.append(b.node("Mul", [y, b.node("Cos", [angles])]))
    b.node("MatMul", [turned[0], b.node("Transpose", [turned[1]], perm=[0, 1, 3, 2])], "scores")
    inner = b.node("ReduceMean", ["scores_out"], axes=[1], keepdims=0)
    b.node("Softmax", [inner], "last")
    inputs: dict[str, tuple[int | str, ...]] = {"x": (1, tokens, heads * dim)}
    if not constant:
        inputs["positions"] = (1, tokens, 1)
    proto = b.model(inputs, {"last_out": (1, tokens, tokens)})
    model_trace = trace_model(proto)
    assert groups(model_trace) == {"q": (heads * dim, dim)}
    assert_halves_exactly(model_trace)
    by_dimension = trace_model(proto, Choices("dims"))
    assert groups(by_dimension) == ({"q": (heads * dim, heads)} if constant else {"matmul1": (dim, 1)})
    assert_halves_exactly(by_dimension)


def test_shapes_of_quantised_weights_follow_the_cut() -> None:
    b = models.Builder()
    x = "x"
    for name, cin, cout in (("conv1", 3, 12), ("conv2", 12, 12), ("last", 12, 5)):
        stored = b.constant(f"{name}.W", b.rng.integers(-100, 100, (cout, cin, 3, 3)).astype(np.int8))
        scales = b.constant(f"{name}.scales", b.rng.uniform(0.01, 0.02, cout).astype(np.float32))
        zeros = b.constant(f"{name}.zeros", np.zeros(cout, np.int8))
        weight = b.node("DequantizeLinear", [stored, scales, zeros], axis=0)
        x = b.node("Conv", [x, weight], name, kernel_shape=[3, 3], pads=[1, 1, 1, 1])
    model_trace = trace_model(model(b, (1, 3, SIZE, SIZE), "last_out"))
    pruned = assert_halves_exactly(model_trace)
    weights = {t.name: numpy_helper.to_array(t).shape for t in pruned.graph.initializer}
    assert weights["conv2.W"] == (6, 6, 3, 3)
