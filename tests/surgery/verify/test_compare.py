"""What rounding alone may do is known for every model, whatever its inputs are, and no more than that is allowed."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import models
from netadapt_onnx.graph.fold_shapes import fold
from netadapt_onnx.graph.passes.pipeline import normalise
from netadapt_onnx.surgery.resize import resize
from netadapt_onnx.surgery.trace import Trace, trace
from netadapt_onnx.surgery.verify.compare import perturbed
from netadapt_onnx.surgery.verify.prove import verify

TOKENS, CHANNELS = 50, 512
KEEP = np.flatnonzero(np.arange(CHANNELS) % 8 < 6)


def pairs(b: models.Builder, rows: int) -> np.ndarray:
    """Channels of which each two nearly cancel: a thirty-thousandth is left of them."""
    values = np.repeat(b.rng.normal(0, 1, (rows, CHANNELS // 2)), 2, 1) + b.rng.normal(0, 3e-5, (rows, CHANNELS))
    return values.astype(np.float32)


def cancelling(b: models.Builder, x: str, codes: dict[str, int], shape: tuple[int, ...]) -> onnx.ModelProto:
    weight = np.tile(np.array([1e4, -1e4], np.float32), (4, CHANNELS // 2)).T
    b.node("MatMul", [x, b.constant("w", weight)], "last")
    inputs = [helper.make_tensor_value_info(name, code, shape) for name, code in codes.items()]
    outputs = [helper.make_tensor_value_info("last_out", TensorProto.FLOAT, None)]
    graph = helper.make_graph(b.nodes, "g", inputs, outputs, b.initializers)
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    normalise(proto)
    return proto


def tokens() -> onnx.ModelProto:
    b = models.Builder()
    x = b.node("Gather", [b.constant("table", pairs(b, TOKENS)), "tokens"], "embed", axis=0)
    return cancelling(b, x, {"tokens": TensorProto.INT64}, (2, 16))


def converted(code: int) -> onnx.ModelProto:
    b = models.Builder()
    x = b.node("Cast", ["raw"], to=TensorProto.FLOAT)
    return cancelling(b, b.node("MatMul", [x, b.constant("v", pairs(b, 8))], "first"), {"raw": code}, (16, 8))


def from_bytes() -> onnx.ModelProto:
    return converted(TensorProto.UINT8)


def from_truth_values() -> onnx.ModelProto:
    return converted(TensorProto.BOOL)


def quantised_table() -> onnx.ModelProto:
    """The table is of bytes, dequantised in the model."""
    b = models.Builder()
    scale = b.constant(
        "scale", np.full(CHANNELS, 0.013, np.float32) * (1 + b.rng.normal(0, 1e-4, CHANNELS)).astype(np.float32)
    )
    table = np.repeat(b.rng.integers(-127, 127, (TOKENS, CHANNELS // 2)), 2, 1).astype(np.int8)
    wide = b.node("DequantizeLinear", [b.constant("table", table), scale], "wide", axis=1)
    return cancelling(b, b.node("Gather", [wide, "tokens"], "embed", axis=0), {"tokens": TensorProto.INT64}, (2, 16))


def cut(proto: onnx.ModelProto) -> tuple[Trace, dict[str, np.ndarray]]:
    traced = trace(fold(proto))
    return traced, {group.name: KEEP for group in traced.prunable}


@pytest.mark.parametrize("build", [tokens, from_bytes, from_truth_values, quantised_table])
def test_rounding_is_no_difference_in_models_without_float_inputs(
    build: Callable[[], onnx.ModelProto], monkeypatch: pytest.MonkeyPatch
) -> None:
    traced, keep = cut(build())
    assert keep
    proof = verify(traced, keep)
    assert proof.exact, proof
    assert proof.moves
    with monkeypatch.context() as patch:
        patch.setattr("netadapt_onnx.surgery.verify.prove.ROUNDING", 0)
        assert not verify(traced, keep).exact


@pytest.mark.parametrize("build", [tokens, from_bytes, from_truth_values, quantised_table])
def test_wrong_cuts_of_models_without_float_inputs_are_caught(build: Callable[[], onnx.ModelProto]) -> None:
    traced, keep = cut(build())
    mutant = resize(traced, keep)
    tensor = next(t for t in mutant.graph.initializer if t.name == "w")
    values = numpy_helper.to_array(tensor).copy()
    values[[0, 3]] = values[[3, 0]]
    tensor.CopyFrom(numpy_helper.from_array(values, "w"))
    assert not verify(traced, keep, pruned=mutant).exact


def test_weights_are_nudged_wherever_they_are_and_nothing_that_decides_is() -> None:
    """A threshold, a size or a single number off by one unit can change everything."""
    b = models.Builder()
    inner = models.Builder()
    inner.node("Mul", ["x", inner.constant("inner.w", np.ones(4, np.float32))], "scaled", "scaled")
    fixed = numpy_helper.from_array(np.full(4, 2, np.float32), "v")
    inner.nodes.insert(0, helper.make_node("Constant", [], ["v"], value=fixed))
    inner.node("Add", ["scaled", "v"], "added", "added")
    value = helper.make_tensor_value_info("added", TensorProto.FLOAT, None)
    body = helper.make_graph(inner.nodes, "body", [], [value], inner.initializers)
    b.node("MatMul", ["x", b.constant("w", np.ones((4, 4), np.float32))], "product")
    b.node("Greater", ["product_out", b.constant("threshold", np.full(4, 0.5, np.float32))], "greater")
    b.node("Resize", ["x", "", b.constant("sizes", np.full(2, 2, np.float32))], "resized")
    b.node("Clip", ["x", b.constant("least", np.float32(1))], "clipped")
    b.node("Mul", ["x", b.constant("single", np.float32(3))], "tripled")
    b.node("Gather", ["x", b.node("Cast", [b.constant("place", np.ones(1, np.float32))], to=TensorProto.INT64)])
    b.node("If", ["condition"], then_branch=body, else_branch=body)
    graph = helper.make_graph(b.nodes, "g", [], [], b.initializers)
    before = helper.make_model(graph)
    kept = before.SerializeToString()
    after = perturbed(before)
    assert before.SerializeToString() == kept
    moved = {t.name for t, u in zip(before.graph.initializer, after.graph.initializer, strict=True) if t != u}
    assert moved == {"w"}
    values = numpy_helper.to_array(after.graph.initializer[0])
    assert set(np.unique(values)) == {
        np.nextafter(np.float32(1), np.float32(0)),
        np.nextafter(np.float32(1), np.float32(2)),
    }
    for attribute, old in zip(after.graph.node[-1].attribute, before.graph.node[-1].attribute, strict=True):
        assert attribute.g.initializer[0] != old.g.initializer[0]
        assert attribute.g.node[0] != old.g.node[0]
