"""Normalising and folding: one test per trap."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import models
from netadapt_onnx.errors import NetadaptError
from netadapt_onnx.graph.fold import fold
from netadapt_onnx.graph.model import load
from netadapt_onnx.graph.passes.pipeline import normalise
from netadapt_onnx.graph.runtime import random_inputs, run, session


def normalised(proto: onnx.ModelProto) -> onnx.ModelProto:
    normalise(proto)
    return proto


def outputs(proto: onnx.ModelProto, batch: int, **shapes: tuple[int, ...]) -> dict[str, np.ndarray]:
    specs = {
        v.name: (shapes.get(v.name, (batch, *[d.dim_value for d in v.type.tensor_type.shape.dim][1:])), np.dtype("f4"))
        for v in proto.graph.input
    }
    return run(session(proto), random_inputs(specs))


def assert_same(a: onnx.ModelProto, b: onnx.ModelProto, batch: int) -> None:
    for name, wanted in outputs(a, batch).items():
        np.testing.assert_allclose(outputs(b, batch)[name], wanted, atol=1e-6 * max(1.0, float(np.abs(wanted).max())))


def shape_arithmetic(allowzero: bool = False) -> onnx.ModelProto:
    """x.view(x.size(0), -1) and an expand over the batch, as exporters spell them."""
    b = models.Builder()
    x = b.conv("image", 3, 8)
    size = b.node("Gather", [b.node("Shape", [x]), b.constant("zero", np.array(0))])
    lifted = b.node("Unsqueeze", [size, b.constant("axis", np.array([0]))])
    target = b.node("Concat", [lifted, b.constant("rest", np.array([-1]))], axis=0)
    flat = b.node("Reshape", [x, target], **({"allowzero": 1} if allowzero else {}))
    dims = b.node("Concat", [lifted, b.constant("wide", np.array([8 * 16]))], axis=0)
    offset = b.node("Expand", [b.random("offset", (1, 1)), dims])
    b.fc(b.node("Add", [flat, offset]), 8 * 16, 5, output="logits")
    return b.model({"image": ("N", 3, 4, 4)}, {"logits": ("N", 5)})


@pytest.mark.parametrize("allowzero", [False, True])
def test_shape_arithmetic_folds_and_the_batch_stays_dynamic(allowzero: bool) -> None:
    proto = normalised(shape_arithmetic(allowzero))
    folded = fold(proto).proto
    assert not {"Concat", "Unsqueeze"} & {n.op_type for n in folded.graph.node}
    for batch in (1, 2, 5):
        assert_same(proto, folded, batch)


def test_folding_twice_is_folding_once() -> None:
    once = fold(normalised(shape_arithmetic())).proto
    twice = fold(normalised(onnx.ModelProto.FromString(once.SerializeToString()))).proto
    assert {t.name for t in twice.graph.initializer} == {t.name for t in once.graph.initializer}
    assert_same(once, twice, 3)


def test_folding_leaves_its_input_alone() -> None:
    proto = normalised(shape_arithmetic())
    before = proto.SerializeToString()
    fold(proto)
    assert proto.SerializeToString() == before


def test_shapes_cover_every_tensor() -> None:
    folded = fold(normalised(models.residual()))
    graph = folded.proto.graph
    names = {n for node in graph.node for n in node.output} | {t.name for t in graph.initializer} | {"image"}
    assert set(folded.shapes) == names
    assert folded.shapes["logits"] == (1, 10)


def test_initializers_that_are_graph_inputs_are_constants() -> None:
    proto = models.plain((8,))
    for tensor in proto.graph.initializer:
        proto.graph.input.append(helper.make_tensor_value_info(tensor.name, tensor.data_type, list(tensor.dims)))
    proto.ir_version = 3
    normalise(proto)
    assert [v.name for v in proto.graph.input] == ["image"]
    assert proto.ir_version >= 4
    onnx.checker.check_model(proto, full_check=True)


def test_constant_nodes_and_identities_become_initializers_and_names() -> None:
    b = models.Builder()
    weight = numpy_helper.from_array(np.ones((4, 3, 1, 1), np.float32))
    b.nodes.append(helper.make_node("Constant", [], ["made"], name="constant", value=weight))
    alias = b.node("Identity", ["made"])
    bias = b.node("Identity", [b.random("bias", (4,))])
    x = b.node("Conv", ["image", alias, bias], "conv")
    b.node("Identity", [b.relu(x)], output="y")
    proto = normalised(b.model({"image": (1, 3, 4, 4)}, {"y": (1, 4, 4, 4)}))
    assert [n.op_type for n in proto.graph.node] == ["Conv", "Relu", "Identity"]  # the last one names the output
    assert list(proto.graph.node[0].input) == ["image", "made", "bias"]


def test_weights_made_by_constant_of_shape_become_initializers() -> None:
    b = models.Builder()
    shape = b.constant("shape", np.array([4, 3, 3, 3]))
    fill = numpy_helper.from_array(np.array([0.5], np.float32))
    b.node("Conv", ["image", b.node("ConstantOfShape", [shape], output="weight", value=fill)], "conv", output="y")
    folded = fold(normalised(b.model({"image": (1, 3, 4, 4)}, {"y": (1, 4, 2, 2)}))).proto
    assert [t.name for t in folded.graph.initializer] == ["weight"]


def test_transposed_weights_keep_their_initializer() -> None:
    b = models.Builder()
    moved = b.node("Transpose", [b.random("fc.weight", (5, 4))], perm=[1, 0])
    b.node("MatMul", ["x", moved], output="y")
    folded = fold(normalised(b.model({"x": ("N", 4)}, {"y": ("N", 5)}))).proto
    assert [t.name for t in folded.graph.initializer] == ["fc.weight"]


def branch(name: str, op: str) -> onnx.GraphProto:
    value = helper.make_tensor_value_info(f"{name}_y", TensorProto.FLOAT, None)
    return helper.make_graph([helper.make_node(op, ["x"], [f"{name}_y"], name=f"{name}_node")], name, [], [value])


@pytest.mark.parametrize("condition", [True, False])
def test_a_decided_if_is_inlined(condition: bool) -> None:
    b = models.Builder()
    x = b.conv("image", 3, 4, name="conv")
    b.nodes[-1].output[0] = "x"
    del x
    rank = b.node("Size", [b.node("Shape", ["x"])])
    decided = b.node("Equal", [rank, b.constant("four", np.array(4 if condition else 5))])
    b.node("If", [decided], "if", then_branch=branch("then", "Relu"), else_branch=branch("else", "Neg"), output="y")
    proto = normalised(b.model({"image": ("N", 3, 4, 4)}, {"y": ("N", 4, 4, 4)}))
    folded = fold(proto).proto
    assert [n.op_type for n in folded.graph.node][:2] == ["Conv", "Relu" if condition else "Neg"]
    assert_same(proto, folded, 2)


def test_a_cycle_is_an_error() -> None:
    proto = models.plain((8,))
    first = next(n for n in proto.graph.node if n.op_type == "Conv")
    first.input[0] = "logits"
    with pytest.raises(NetadaptError, match="cycle"):
        fold(normalised(proto))


def test_a_dynamic_axis_beyond_the_first_needs_a_shape() -> None:
    b = models.Builder()
    b.conv("image", 3, 4, name="conv")
    proto = normalised(b.model({"image": ("N", 3, "H", "W")}, {"conv_out": ("N", 4, "H", "W")}))
    with pytest.raises(NetadaptError, match=r"dynamic axis beyond the first: \?x3x\?x\?; give its shape with --shape"):
        fold(proto)
    assert fold(proto, {"image": (1, 3, 6, 5)}).shapes["conv_out"] == (1, 4, 6, 5)
    with pytest.raises(NetadaptError, match="does not fit the input"):
        fold(proto, {"image": (1, 4, 6, 5)})


def test_external_data_is_read_and_may_not_leave_the_folder(tmp_path: Path) -> None:
    proto = models.plain((8, 8))
    path = tmp_path / "m.onnx"
    onnx.save_model(models.plain((8, 8)), str(path), save_as_external_data=True, location="m.data", size_threshold=0)
    loaded = load(path)
    assert_same(normalised(proto), loaded.proto, 1)
    assert loaded.size_bytes == path.stat().st_size + (tmp_path / "m.data").stat().st_size
    outside = onnx.load(str(path), load_external_data=False)
    for tensor in outside.graph.initializer:
        for entry in tensor.external_data:
            if entry.key == "location":
                entry.value = "../m.data"
    onnx.save_model(outside, str(tmp_path / "escaped.onnx"))
    with pytest.raises(NetadaptError, match="outside the model's folder"):
        load(tmp_path / "escaped.onnx")
    (tmp_path / "m.data").unlink()
    with pytest.raises(NetadaptError, match=r"external data file 'm.data' of tensor '.*' is missing"):
        load(path)


def test_a_shape_given_for_other_axes_leaves_the_batch_dynamic() -> None:
    b = models.Builder()
    x = b.node("GlobalAveragePool", [b.conv("image", 3, 8)])
    size = b.node("Gather", [b.node("Shape", [x]), b.constant("zero", np.array([0]))])
    target = b.node("Concat", [size, b.constant("rest", np.array([8]))], axis=0)
    b.fc(b.node("Reshape", [x, target]), 8, 5, output="logits")
    proto = normalised(b.model({"image": ("N", 3, "H", "W")}, {"logits": ("N", 5)}))
    folded = fold(proto, {"image": (1, 3, 6, 6)}).proto
    for batch in (1, 3):
        wanted, got = (outputs(m, batch, image=(batch, 3, 6, 6))["logits"] for m in (proto, folded))
        np.testing.assert_allclose(got, wanted, atol=1e-5)


def test_an_empty_input_is_refused() -> None:
    proto = models.plain((8,))
    proto.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 0
    with pytest.raises(NetadaptError, match="is empty: 0x3x16x16"):
        fold(normalised(proto))
