"""Shapes found without running the network are those of running it; what cannot be known stays open."""

from __future__ import annotations

import io

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import models
from models import custom
from netadapt_onnx.errors import NetadaptError
from netadapt_onnx.graph.fold_shapes import fold
from netadapt_onnx.graph.folded_model import FoldedModel
from netadapt_onnx.graph.passes.pipeline import normalise
from netadapt_onnx.graph.runtime import random_inputs, run, session
from netadapt_onnx.graph.weightless import file_bytes, light_copy, without_weights, write
from netadapt_onnx.surgery.criteria.selection import select
from netadapt_onnx.surgery.trace import trace
from netadapt_onnx.surgery.verify.prove import verify
from rule_cases import CASES, build

EVERY = {f"model {name}": builder for name, builder in models.ALL.items()} | {
    f"{domain}::{op}": (lambda domain=domain, op=op: build(domain, op)) for domain, op in CASES
}


def folded(proto: onnx.ModelProto, **shapes: tuple[int, ...]) -> FoldedModel:
    normalise(proto)
    return fold(proto, shapes)


@pytest.mark.parametrize("name", sorted(EVERY))
def test_shapes_and_types_are_those_of_running_the_model(name: str) -> None:
    result = folded(EVERY[name]())
    if result.unrunnable:
        pytest.skip(result.unrunnable[:80])
    names = [tensor for node in result.proto.graph.node for tensor in node.output if tensor]
    ran = run(session(result.proto, outputs=names, optimise=False), random_inputs(result.specs))
    assert {k: (v.shape, v.dtype) for k, v in ran.items()} == {k: (result.shapes[k], result.dtypes[k]) for k in names}


@pytest.mark.parametrize("name", sorted(models.ALL))
def test_a_file_is_written_tensor_by_tensor_and_its_length_known_before(name: str) -> None:
    proto = models.ALL[name]()
    proto.metadata_props.add(key="a", value="b" * 300)
    assert file_bytes(proto) == len(proto.SerializeToString())
    stream = io.BytesIO()
    write(proto, stream)
    assert onnx.ModelProto.FromString(stream.getvalue()) == proto


def test_a_light_copy_has_everything_but_the_weights() -> None:
    proto = models.residual()
    light, weights = light_copy(proto)
    assert len(light.SerializeToString()) < file_bytes(proto) / 3
    assert {name: value.shape for name, value in weights.items()}.items() <= {
        t.name: tuple(t.dims) for t in proto.graph.initializer
    }.items()
    assert list(without_weights(proto).graph.node) == list(proto.graph.node)


def test_a_type_that_follows_an_input_folds() -> None:
    b = models.Builder()
    x = b.conv("image", 3, 4)
    scale = b.node("CastLike", [b.constant("two", np.array([2], np.int64)), x])
    b.node("Mul", [x, scale], output="y")
    result = folded(b.model({"image": ("N", 3, 4, 4)}, {"y": ("N", 4, 4, 4)}))
    assert [n.op_type for n in result.proto.graph.node] == ["Conv", "Mul"]


def test_a_size_that_depends_on_the_data_is_no_constant() -> None:
    """How many values are positive is not known, so neither is what is computed from it."""
    b = models.Builder()
    x = b.conv("image", 3, 4)
    positive = b.node("NonZero", [b.relu(x)])
    count = b.node("Gather", [b.node("Shape", [positive]), b.constant("one", np.array(1))])
    b.node("Mul", [x, b.node("Cast", [count], to=TensorProto.FLOAT)], output="y")
    proto = b.model({"image": (1, 3, 4, 4)}, {"y": (1, 4, 4, 4)})
    result = folded(onnx.ModelProto.FromString(proto.SerializeToString()))
    assert "Shape" in [n.op_type for n in result.proto.graph.node]
    inputs = random_inputs(result.specs, seed=3)
    np.testing.assert_allclose(
        run(session(result.proto), inputs)["y"], run(session(proto), inputs)["y"], rtol=1e-5, atol=1e-5
    )


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (("conv2.weight", (8, 5, 3, 3)), "do not fit the 8 channels of their input"),
        (("fc1.weight", (10, 9)), "Gemm"),
    ],
)
def test_shapes_that_contradict_each_other_name_the_node(wrong: tuple[str, tuple[int, ...]], message: str) -> None:
    proto = models.plain((8, 8))
    tensor = next(t for t in proto.graph.initializer if t.name == wrong[0])
    tensor.CopyFrom(numpy_helper.from_array(np.zeros(wrong[1], np.float32), wrong[0]))
    with pytest.raises(NetadaptError, match=message) as caught:
        folded(proto)
    assert caught.value.node == wrong[0].split(".")[0]


@pytest.mark.parametrize(("op", "gates"), [("LSTM", 4), ("GRU", 3), ("RNN", 1)])
@pytest.mark.parametrize("short", ["w", "r", "b"])
def test_recurrent_weights_of_other_units_than_the_layer_says_name_it(op: str, gates: int, short: str) -> None:
    shapes = {"w": (1, gates * 5, 3), "r": (1, gates * 5, 5), "b": (1, 2 * gates * 5)}
    shapes[short] = (*shapes[short][:-1], 0) if short == "r" else (1, 4, *shapes[short][2:])
    node = helper.make_node(op, ["x", *shapes], ["y"], name="layer", hidden_size=5)
    inputs = [helper.make_tensor_value_info("x", TensorProto.FLOAT, [4, 2, 3])]
    weights = [numpy_helper.from_array(np.zeros(shape, np.float32), name) for name, shape in shapes.items()]
    result = helper.make_tensor_value_info("y", TensorProto.FLOAT, None)
    graph = helper.make_graph([node], "g", inputs, [result], weights)
    with pytest.raises(NetadaptError, match=f"{op} weights '{short}' .* are not those of 5 hidden units") as caught:
        folded(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9))
    assert caught.value.node == "layer"


def test_onnxruntime_prints_nothing_of_a_model_that_it_refuses(capfd: pytest.CaptureFixture[str]) -> None:
    shapes = {"w": (1, 20, 3), "r": (1, 20, 5)}  # it quotes the direction, and its wrapper then tries again, aloud
    node = helper.make_node("LSTM", ["x", *shapes], ["y"], hidden_size=5, direction=b"\x8e")
    inputs = [helper.make_tensor_value_info("x", TensorProto.FLOAT, [4, 2, 3])]
    weights = [numpy_helper.from_array(np.zeros(shape, np.float32), name) for name, shape in shapes.items()]
    graph = helper.make_graph([node], "g", inputs, [onnx.ValueInfoProto(name="y")], weights)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    for optimise in (True, False):
        with pytest.raises(NetadaptError, match="cannot load the model"):
            session(model, optimise=optimise)
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("declared", [None, ("N", 8, 4, 4)])
def test_around_an_operator_of_an_unknown_domain_the_rest_is_pruned(declared: tuple[int | str, ...] | None) -> None:
    result = trace(folded(custom(declared)))
    groups = {g.name: g for g in result.groups}
    assert groups["conv2"].reason == "no rule for my.vision::Blur ('blur')"
    assert groups["conv1"].prunable
    assert groups["conv3"].prunable
    assert result.folded.shapes["last_out"] == (1, 4, *((8, 8) if declared is None else (4, 4)))
    assert result.folded.assumed == (("blurred",) if declared is None else ())
    assert "Blur" in (result.folded.unrunnable or "")


def test_an_assumed_shape_that_cannot_be_is_not_assumed() -> None:
    proto = custom()
    proto.graph.output[0].CopyFrom(helper.make_tensor_value_info("last_out", TensorProto.FLOAT, ["N", 4, 5, 5]))
    result = trace(folded(proto))
    assert "conv3_out" not in result.folded.shapes
    assert {g.name: g.prunable for g in result.groups} == {"conv1": True, "conv2": False}


def test_no_constant_is_made_of_an_assumed_shape() -> None:
    b = models.Builder()
    x = b.conv("image", 3, 8)
    b.nodes.append(helper.make_node("Blur", [x], ["blurred"], name="blur", domain="my.vision"))
    b.node("Reshape", ["blurred", b.node("Shape", ["blurred"])], output="y")
    proto = helper.make_model(
        helper.make_graph(
            b.nodes,
            "custom",
            [helper.make_tensor_value_info("image", TensorProto.FLOAT, [1, 3, 8, 8])],
            [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
            b.initializers,
        ),
        opset_imports=[helper.make_opsetid("", 17), helper.make_opsetid("my.vision", 1)],
        ir_version=8,
    )
    assert "Shape" in [n.op_type for n in folded(proto).proto.graph.node]


def test_the_proof_of_a_model_that_cannot_run_is_refused_by_name() -> None:
    result = trace(folded(custom()))
    with pytest.raises(NetadaptError, match=r"onnxruntime has no my\.vision::Blur \('blur'\)") as caught:
        verify(result, select(result, {"conv1": 4}))
    assert caught.value.code == "unverifiable"


@pytest.mark.parametrize("shape", [(1, 12), (1,), (12, 1)])
def test_values_of_a_group_norm_that_are_no_vector_of_its_channels_pin_it(shape: tuple[int, ...]) -> None:
    b = models.Builder()
    b.opset = 21
    x = b.conv("x", 3, 12)
    scale, shift = (b.random(name, size) for name, size in (("s", (12,)), ("h", shape)))
    x = b.conv(b.node("GroupNormalization", [x, scale, shift], num_groups=3), 12, 4)
    proto = b.model({"x": (1, 3, 8, 8)}, {x: (1, 4, 8, 8)})
    (first, _) = trace(folded(proto)).groups
    assert "has no value for each of 12 channels" in (first.reason or "")
