"""An axis that is stretched from length 1 has no channels of its own: it follows what it is combined with."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx
import pytest

import models
from netadapt_onnx.graph.runtime import run, session
from netadapt_onnx.surgery.resize import resize
from netadapt_onnx.surgery.verify.prove import verify
from tracing import trace_model

C, SIZE = 12, 6
Spelling = Callable[[models.Builder, str, str], str]  # (builder, norm (N, 1, H, W), like (N, C, H, W)) -> (N, C, H, W)


def ints(b: models.Builder, *values: int) -> str:
    return b.constant(b.name("ints"), np.array(values, np.int64))


def by_constant(b: models.Builder, norm: str, like: str) -> str:
    return b.node("Expand", [norm, ints(b, 1, C, 1, 1)])


def by_shape(b: models.Builder, norm: str, like: str) -> str:
    return b.node("Expand", [norm, b.node("Shape", [like])])


def by_shape_chain(b: models.Builder, norm: str, like: str) -> str:
    shape = b.node("Shape", [like])
    sizes = [b.node("Gather", [shape, ints(b, axis)]) for axis in (0, 2, 3)]
    return b.node("Expand", [norm, b.node("Concat", [sizes[0], ints(b, C), *sizes[1:]], axis=0)])


def before_unary(b: models.Builder, norm: str, like: str) -> str:
    return b.node("Sqrt", [b.node("Abs", [by_constant(b, norm, like)])])


def by_tile(b: models.Builder, norm: str, like: str) -> str:
    return b.node("Tile", [norm, ints(b, 1, C, 1, 1)])


def by_ones(b: models.Builder, norm: str, like: str) -> str:
    one = onnx.numpy_helper.from_array(np.ones(1, np.float32))
    return b.node("Mul", [norm, b.node("ConstantOfShape", [b.node("Shape", [like])], value=one)])


SPELLINGS = (by_constant, by_shape, by_shape_chain, before_unary, by_tile, by_ones)


def normalised(spelling: Spelling) -> onnx.ModelProto:
    """Two convolutions, channels divided by their norm, which is stretched over them, and a head."""
    b = models.Builder()
    x = b.conv(b.relu(b.conv("image", 3, 8)), 8, C)
    norm = b.node("Clip", [b.node("ReduceL2", [x], axes=[1], keepdims=1), b.constant("least", np.float32(1e-3))])
    b.head(b.node("Div", [x, spelling(b, norm, x)]), C)
    return b.model({"image": ("N", 3, SIZE, SIZE)}, {"logits": ("N", 10)})


@pytest.mark.parametrize("spelling", SPELLINGS, ids=lambda spelling: spelling.__name__)
def test_channels_go_from_a_stretched_norm(spelling: Spelling) -> None:
    traced = trace_model(normalised(spelling))
    assert {g.name: (g.channels, g.step) for g in traced.prunable} == {"conv1": (8, 1), "conv2": (C, 1)}
    keep = {"conv1": np.array([0, 2, 5]), "conv2": np.array([1, 3, 4, 7, 11])}
    pruned = resize(traced, keep)
    assert verify(traced, keep, pruned=pruned).exact
    image = np.random.default_rng(0).standard_normal((1, 3, SIZE, SIZE)).astype(np.float32)
    assert run(session(pruned), {"image": image}, ["logits"])["logits"].shape == (1, 10)


def test_what_a_stretched_axis_meets_still_pins_it() -> None:
    """Combined with an input of the graph, which keeps its shape."""
    b = models.Builder()
    x = b.conv("image", 3, C)
    mean = b.node("Expand", [b.node("ReduceMean", [x], axes=[1], keepdims=1), ints(b, 1, C, 1, 1)])
    b.head(b.node("Add", [b.node("Mul", [mean, "other"]), x]), C)
    proto = b.model({"image": (1, 3, SIZE, SIZE), "other": (1, C, SIZE, SIZE)}, {"logits": (1, 10)})
    traced = trace_model(proto)
    assert not traced.prunable
    assert "combines it with 'mul1_out', which cannot be cut" in str(traced.group("conv1").reason)


def test_heads_that_are_repeated_stay_apart() -> None:
    """Keys' channels stretched over the queries that share them, then reshaped: each goes alone, with its copies."""
    b = models.Builder()
    x = b.conv("image", 3, 4)
    y = b.node("Unsqueeze", [x, ints(b, 2)])
    y = b.node("Reshape", [b.node("Expand", [y, ints(b, 1, 4, 3, 1, 1)]), ints(b, 0, 12, SIZE, SIZE)])
    b.head(y, 12)
    traced = trace_model(b.model({"image": (1, 3, SIZE, SIZE)}, {"logits": (1, 10)}))
    assert [(g.name, g.channels, g.step) for g in traced.prunable] == [("conv1", 4, 1)]
    assert verify(traced, {"conv1": np.array([0, 3])}).exact
