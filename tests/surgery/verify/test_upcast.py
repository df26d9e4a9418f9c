"""LSTMs of bytes, as dynamic quantisation makes them: cut like those of floats, proven, scored and counted likewise."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import models
import quantised_cases
from netadapt_onnx.errors import NetadaptError
from netadapt_onnx.graph.cost import cost
from netadapt_onnx.graph.fold_shapes import fold
from netadapt_onnx.graph.passes.pipeline import normalise
from netadapt_onnx.graph.runtime import random_inputs, run, session
from netadapt_onnx.surgery.criteria.selection import select
from netadapt_onnx.surgery.criteria.weights import l2
from netadapt_onnx.surgery.resize import resize
from netadapt_onnx.surgery.trace import Trace, trace
from netadapt_onnx.surgery.verify.prove import verify
from netadapt_onnx.surgery.verify.upcast import with_float_recurrence

STEPS, BATCH, INPUTS = 6, 16, 10  # the batch is the one that the cases' initial states have


def network() -> onnx.ModelProto:
    """A layer of floats, then an LSTM with one scale, a bidirectional one with a scale for each channel, the output."""
    b = models.Builder(seed=3)
    x = b.node("Add", [b.node("MatMul", ["x", b.random("w0", (INPUTS, 12), INPUTS)], "first"), b.random("b0", (12,))])
    x = quantised_cases.lstm(b, b.node("Tanh", [x]), 12, 20, 1, per_channel=False)
    x = quantised_cases.lstm(b, x, 20, 8, 2, per_channel=True)
    b.node("MatMul", [x, b.random("w1", (16, 5), 16)], "last", output="y")
    inputs = [helper.make_tensor_value_info("x", TensorProto.FLOAT, [STEPS, BATCH, INPUTS])]
    outputs = [helper.make_tensor_value_info("y", TensorProto.FLOAT, [STEPS, BATCH, 5])]
    graph = helper.make_graph(b.nodes, "g", inputs, outputs, b.initializers)
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("com.microsoft", 1)]
    proto = helper.make_model(graph, opset_imports=opsets, ir_version=8)
    normalise(proto)
    return proto


def cut() -> tuple[Trace, dict[str, np.ndarray], onnx.ModelProto]:
    traced = trace(fold(network()))
    keep = select(traced, {g.name: -(-g.channels // 2) for g in traced.prunable}, "random")
    return traced, keep, resize(traced, keep)


def changed(proto: onnx.ModelProto, name: str, values: np.ndarray) -> onnx.ModelProto:
    copy = onnx.ModelProto()
    copy.CopyFrom(proto)
    tensor = next(t for t in copy.graph.initializer if t.name == name)
    tensor.CopyFrom(numpy_helper.from_array(values, name))
    return copy


def value(proto: onnx.ModelProto, name: str) -> np.ndarray:
    return numpy_helper.to_array(next(t for t in proto.graph.initializer if t.name == name))


def test_units_of_both_layers_go_and_the_cut_is_proven() -> None:
    traced, keep, pruned = cut()
    assert {g.name: g.channels for g in traced.prunable} == {
        "first": 12,
        "dynamicquantizelstm1": 20,
        "dynamicquantizelstm2": 8,
    }
    assert verify(traced, keep, pruned=pruned).exact
    shapes = {t.name: tuple(t.dims) for t in pruned.graph.initializer}
    assert shapes["lstm1.w"] == (1, 6, 40) and shapes["lstm1.r"] == (1, 10, 40) and shapes["lstm1.ws"] == (1,)
    assert shapes["lstm2.w"] == (2, 10, 16) and shapes["lstm2.rz"] == (2, 16) and shapes["lstm2.p"] == (2, 12)


def test_a_level_that_rounding_flips_in_some_step_is_no_difference() -> None:
    traced, keep, pruned = cut()
    bias = value(pruned, "b0")
    for by in (1e-7, 1e-6, 3e-6):
        rounded = changed(pruned, "b0", (bias * (1 + by)).astype(np.float32))
        proof = verify(traced, keep, pruned=rounded)
        assert proof.exact, proof
    assert not verify(traced, keep, pruned=changed(pruned, "b0", (bias * 1.01).astype(np.float32))).exact


@pytest.mark.parametrize("part", ["w", "r", "b", "p", "h", "c", "ws"])
def test_exchanged_units_are_caught(part: str) -> None:
    traced, keep, pruned = cut()
    name = f"lstm2.{part}"
    values = value(pruned, name).copy()
    values[..., [0, 1]] = values[..., [1, 0]]
    assert not verify(traced, keep, pruned=changed(pruned, name, values)).exact


def test_layers_of_floats_compute_what_those_of_bytes_do() -> None:
    proto = network()
    inputs = random_inputs(fold(proto).specs)
    one, other = (run(session(m, optimise=False), inputs, ["y"])["y"] for m in (proto, with_float_recurrence(proto)))
    assert 0 < np.abs(one - other).max() < 0.1 * one.std()  # levels of a 255th of the range, over six steps


def test_units_count_by_what_their_bytes_stand_for() -> None:
    traced = trace(fold(network()))
    proto = traced.folded.proto
    scale, zero = (value(proto, f"lstm2.{part}").astype(np.float64)[:, None] for part in ("ws", "wz"))
    weights = (value(proto, "lstm2.w") - zero) * scale  # (2, 20, 32)
    expected = np.sqrt((weights**2).reshape(2, 20, 4, 8).sum(axis=(0, 1, 2)))
    np.testing.assert_allclose(l2(traced, traced.group("dynamicquantizelstm2")), expected, rtol=1e-9)


def test_they_cost_what_those_of_floats_cost() -> None:
    folded = fold(network())
    layers = {layer.name: layer for layer in cost(folded.proto, folded.shapes).layers}
    weights = 4 * 20 * (12 + 20)
    assert layers["dynamicquantizelstm1"].macs == STEPS * BATCH * weights
    assert layers["dynamicquantizelstm1"].params == weights + 8 * 20 + 3 * 20


def test_training_refuses_them_by_name() -> None:
    pytest.importorskip("torch")
    from netadapt_onnx.training.torch_graph import TorchGraph

    with pytest.raises(NetadaptError, match="does not support DynamicQuantizeLSTM"):
        TorchGraph(network())
