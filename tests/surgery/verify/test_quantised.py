"""Proofs of quantised models: what rounding flips on a boundary is no fault, and faults behind it are still seen."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import models
import quantised_cases  # noqa: F401 - registers its cases
import rule_cases
from netadapt_onnx.graph.fold_shapes import fold
from netadapt_onnx.graph.passes.pipeline import normalise
from netadapt_onnx.graph.runtime import random_inputs, run, session
from netadapt_onnx.surgery.criteria.selection import select
from netadapt_onnx.surgery.kept_counts import at_ratio
from netadapt_onnx.surgery.resize import resize
from netadapt_onnx.surgery.trace import Trace, trace
from netadapt_onnx.surgery.verify.exact_integers import PRODUCTS, with_exact_integers
from netadapt_onnx.surgery.verify.prove import verify

SIZE = 48


def quantised(b: models.Builder, x: str, scale: float) -> str:
    name = b.name("q")
    step, zero = b.constant(f"{name}.scale", np.float32(scale)), b.constant(f"{name}.zero", np.int8(0))
    return b.node("DequantizeLinear", [b.node("QuantizeLinear", [x, step, zero], name), step, zero])


def network() -> onnx.ModelProto:
    """Three convolutions with levels in between that are coarse to what follows and fine to rounding."""
    b = models.Builder()
    x = quantised(b, b.conv("image", 3, 16), 0.02)
    x = quantised(b, b.conv(x, 16, 12), 0.02)
    b.head(b.conv(x, 12, 8), 8)
    return b.model({"image": (1, 3, SIZE, SIZE)}, {"logits": (1, 10)})


def cut() -> tuple[Trace, dict[str, np.ndarray], onnx.ModelProto]:
    proto = network()
    normalise(proto)
    traced = trace(fold(proto))
    keep = select(traced, {"conv1": 9, "conv2": 7, "conv3": 5}, "random")
    return traced, keep, resize(traced, keep)


def shifted(proto: onnx.ModelProto, name: str, by: float) -> onnx.ModelProto:
    """The same with one bias moved by a share of itself: what another order of sums might do."""
    copy = onnx.ModelProto()
    copy.CopyFrom(proto)
    tensor = next(t for t in copy.graph.initializer if t.name == name)
    values = numpy_helper.to_array(tensor)
    tensor.CopyFrom(numpy_helper.from_array((values * (1 + by)).astype(np.float32), name))
    return copy


def test_levels_that_rounding_flips_are_no_difference() -> None:
    traced, keep, pruned = cut()
    rounded = shifted(pruned, "conv1.bias", 3e-6)
    names = ["q1_out"]
    flips = 0
    for seed in range(5):
        inputs = random_inputs(traced.folded.specs, seed)
        a, b = (run(session(m, outputs=names, optimise=False), inputs, names)["q1_out"] for m in (pruned, rounded))
        flips += int((a != b).sum())
    assert flips > 0
    proof = verify(traced, keep, pruned=rounded)
    assert proof.exact, proof


def test_faults_behind_a_flip_are_still_seen() -> None:
    traced, keep, pruned = cut()
    for name in ("conv1.bias", "conv2.bias", "conv3.bias"):
        wrong = shifted(shifted(pruned, "conv1.bias", 3e-6), name, 2e-2)
        assert not verify(traced, keep, pruned=wrong).exact, name


def test_swapped_channels_are_caught() -> None:
    traced, keep, pruned = cut()
    for name in ("conv2.weight", "conv3.weight"):
        copy = onnx.ModelProto()
        copy.CopyFrom(pruned)
        tensor = next(t for t in copy.graph.initializer if t.name == name)
        values = numpy_helper.to_array(tensor).copy()
        values[:, [0, 1]] = values[:, [1, 0]]
        tensor.CopyFrom(numpy_helper.from_array(values, name))
        assert not verify(traced, keep, pruned=copy).exact, name


def multiplied(values: type, weights: type) -> tuple[onnx.ModelProto, np.ndarray, np.ndarray]:
    """Bytes, most of them the largest, times a matrix of such bytes: the model, its input, and the true result."""
    b = models.Builder()
    x, w = (
        np.where(b.rng.random(shape) < 0.8, np.iinfo(kind).max, b.rng.integers(0, 9, shape)).astype(kind)
        for shape, kind in (((4, 64), values), ((64, 16), weights))
    )
    b.node("MatMulInteger", ["x", b.constant("w", w)], "y")
    code = helper.np_dtype_to_tensor_dtype(np.dtype(values))
    inputs = [helper.make_tensor_value_info("x", code, x.shape)]
    outputs = [helper.make_tensor_value_info("y_out", TensorProto.INT32, [4, 16])]
    graph = helper.make_graph(b.nodes, "g", inputs, outputs, b.initializers)
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    return proto, x, x.astype(np.int64) @ w.astype(np.int64)


@pytest.mark.parametrize("values", [np.uint8, np.int8])
@pytest.mark.parametrize("weights", [np.uint8, np.int8])
def test_integers_are_multiplied_exactly_on_every_processor(values: type, weights: type) -> None:
    proto, x, expected = multiplied(values, weights)
    exact = with_exact_integers(proto, {"x": np.dtype(values)})
    assert np.array_equal(run(session(exact, optimise=False), {"x": x})["y_out"], expected)
    assert (len(exact.graph.node) > 1) == (values is not weights)


@pytest.mark.parametrize("key", sorted(key for key in rule_cases.CASES if key[1] in PRODUCTS), ids=lambda key: key[1])
def test_a_proof_multiplies_no_bytes_of_different_signs(key: tuple[str, str]) -> None:
    """Those are what the kernels of x86 without VNNI saturate; what the model computes stays."""
    proto = rule_cases.build(*key)
    normalise(proto)
    folded = fold(proto)
    exact = with_exact_integers(folded.proto, folded.dtypes)
    types = {**{n: str(t) for n, t in folded.dtypes.items()}}
    types |= {t.name: str(helper.tensor_dtype_to_np_dtype(t.data_type)) for t in exact.graph.initializer}
    for node in exact.graph.node:
        if node.op_type == "Cast":
            code = next(a.i for a in node.attribute if a.name == "to")
            types[node.output[0]] = str(helper.tensor_dtype_to_np_dtype(code))
    products = [(node, p) for node in exact.graph.node for p in PRODUCTS.get(node.op_type, ())]
    assert products
    for node, product in products:
        values = "uint8" if product.values is None else types[node.input[product.values]]
        assert types[node.input[product.weights]] == values, node.name
    inputs = random_inputs(folded.specs, 0)
    names = [value.name for value in folded.proto.graph.output]
    narrow = without_large_weights(folded.proto)  # sums that no kernel saturates
    one, other = (
        run(session(m, optimise=False), inputs, names) for m in (narrow, with_exact_integers(narrow, folded.dtypes))
    )
    assert all(np.array_equal(one[name], other[name]) for name in names)


def without_large_weights(proto: onnx.ModelProto) -> onnx.ModelProto:
    """A copy whose signed bytes are of seven bits."""
    copy = onnx.ModelProto()
    copy.CopyFrom(proto)
    for tensor in copy.graph.initializer:
        values = numpy_helper.to_array(tensor)
        if values.dtype == np.int8 and values.ndim > 1:
            tensor.CopyFrom(numpy_helper.from_array(values // 2, tensor.name))
    return copy


@pytest.mark.parametrize("kind", [np.uint8, np.int8])
def test_right_cuts_are_exact_where_kernels_saturate(kind: type) -> None:
    """Large bytes times large bytes: which pairs saturate on x86 without VNNI depends on who is whose neighbour."""
    b = models.Builder(opset=20)
    zero = b.constant("zero", np.array(0, kind))
    x = b.node("QuantizeLinear", [b.conv("image", 3, 24), b.constant("fine", np.float32(0.004)), zero])
    for name, cin, cout in (("first", 24, 16), ("second", 16, 12)):
        weights = b.constant(f"{name}.w", b.rng.choice([-127, 120, 127], (cout, cin, 1, 1)).astype(np.int8))
        scales = [b.constant(f"{name}.{part}", np.float32(value)) for part, value in (("x", 1), ("s", 1), ("y", 20))]
        none = b.constant(f"{name}.zero", np.array(0, np.int8))
        x = b.node("QLinearConv", [x, scales[0], zero, weights, scales[1], none, scales[2], zero], name)
    last = b.node("DequantizeLinear", [x, b.constant("last.scale", np.float32(1)), zero])
    proto = b.model({"image": (1, 3, 8, 8)}, {last: (1, 12, 8, 8)})
    normalise(proto)
    traced = trace(fold(proto))
    assert {"conv1", "first"} <= {group.name for group in traced.prunable}
    for ratio in (0.3, 0.6):
        keep = select(traced, at_ratio(traced.prunable, ratio), "random")
        proof = verify(traced, keep)
        assert proof.exact, proof
        assert proof.moves
