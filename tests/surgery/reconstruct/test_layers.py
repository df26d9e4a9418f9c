"""Layers as linear maps: the sampled inputs times the weights are the sampled outputs."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

import models
from netadapt_onnx.graph.runtime import run, session
from netadapt_onnx.surgery.reconstruct.layers import Linear, linear_layers
from tracing import trace_model

SIZE = {1: (19,), 2: (13, 10), 3: (7, 6, 5)}


def convolution(rank: int, groups: int, **attributes: object) -> onnx.ModelProto:
    b = models.Builder()
    weight = b.random("weight", (6, 8 // groups, *(3, 2, 2)[:rank]))
    y = b.node("Conv", ["x", weight], "layer", "y", group=groups, **attributes)
    return b.model({"x": ("N", 8, *SIZE[rank])}, {y: ("N", 6, *[None] * rank)})  # type: ignore[list-item]


def tokens() -> onnx.ModelProto:
    b = models.Builder()
    b.node("MatMul", ["x", b.random("weight", (8, 6))], "layer", "y")
    return b.model({"x": ("N", 11, 8)}, {"y": ("N", 11, 6)})


CASES: dict[str, Callable[[], onnx.ModelProto]] = {
    "a line": lambda: convolution(1, 1, pads=[1, 2]),
    "valid": lambda: convolution(2, 1),
    "padded": lambda: convolution(2, 1, pads=[1, 0, 2, 1]),
    "padded beyond the kernel": lambda: convolution(2, 1, pads=[4, 3, 4, 3]),
    "strides": lambda: convolution(2, 2, strides=[2, 3], pads=[1, 1, 1, 1]),
    "dilations": lambda: convolution(2, 1, dilations=[2, 3], pads=[2, 1, 2, 2]),
    "same upper": lambda: convolution(2, 1, strides=[2, 1], auto_pad="SAME_UPPER"),
    "same lower": lambda: convolution(2, 1, strides=[2, 2], auto_pad="SAME_LOWER"),
    "a volume": lambda: convolution(3, 2, pads=[1, 0, 1, 1, 1, 0]),
    "tokens": tokens,
}


def sampled(layer: Linear, values: np.ndarray, rows: int, positions: np.ndarray, *, of_input: bool) -> np.ndarray:
    """A slice of a wider array, as reconstruction fills it."""
    columns = np.full((rows, 3 + len(values) * len(positions)), np.nan, np.float32)
    (layer.inputs_at if of_input else layer.outputs_at)(values, positions, columns[:, 3:])
    assert np.isnan(columns[:, :3]).all()
    return columns[:, 3:]


@pytest.mark.parametrize("name", CASES)
def test_sampled_inputs_times_the_weights_are_the_sampled_outputs(name: str) -> None:
    proto = CASES[name]()
    (layer,) = linear_layers(trace_model(proto))
    shape = [5, *(d.dim_value for d in proto.graph.input[0].type.tensor_type.shape.dim[1:])]
    x = np.random.default_rng(0).standard_normal(shape).astype(np.float32)
    y = run(session(proto), {"x": x})["y"]
    positions = layer.positions(0, 0, 7)
    inputs = sampled(layer, x, layer.groups * layer.inputs_per_group, positions, of_input=True)
    expected = sampled(layer, y, 6, positions, of_input=False)
    weights = layer.matrix(numpy_helper.to_array(proto.graph.initializer[0]))
    computed = weights.transpose(0, 2, 1) @ inputs.reshape(layer.groups, layer.inputs_per_group, -1)
    assert np.abs(computed.reshape(expected.shape) - expected).max() < 1e-5 * np.abs(expected).max()


def test_positions_are_the_same_for_layers_of_one_size() -> None:
    one, other = (linear_layers(trace_model(convolution(2, groups)))[0] for groups in (1, 2))
    assert np.array_equal(one.positions(3, 1, 20), other.positions(3, 1, 20))
    assert not np.array_equal(one.positions(3, 1, 20), one.positions(3, 2, 20))
