"""Deformable attention (RT-DETR, D-FINE, Mask2Former and others): heads lie on the batch of GridSample's inputs."""

from __future__ import annotations

import numpy as np
import onnx
import pytest

from models import Builder
from netadapt_onnx.graph.fold_shapes import fold
from netadapt_onnx.graph.passes.pipeline import normalise
from netadapt_onnx.graph.runtime import run, session
from netadapt_onnx.surgery.criteria.selection import select
from netadapt_onnx.surgery.labels import Choices
from netadapt_onnx.surgery.resize import resize
from netadapt_onnx.surgery.trace import Trace, trace
from netadapt_onnx.surgery.verify.prove import verify
from tracing import trace_model

HEADS, POINTS, QUERIES, WIDTH, SIDE = 4, 3, 6, 32, 8


def deformable(batch: int | str = 1) -> onnx.ModelProto:
    """One level: values, offsets and weights of `HEADS` heads; a dynamic batch is multiplied by them at run time."""
    b = Builder(opset=17)
    tokens = b.node("Reshape", [b.conv("x", 3, WIDTH, name="stem"), sizes(b, 0, WIDTH, -1)])
    tokens = b.node("Transpose", [tokens], perm=[0, 2, 1])
    queries = b.node("Slice", [tokens, *(sizes(b, n) for n in (0, QUERIES, 1))])
    values = heads_first(b, projected(b, tokens, "values", WIDTH), (SIDE * SIDE, WIDTH // HEADS), [0, 2, 3, 1])
    values = b.node("Reshape", [values, merged(b, WIDTH // HEADS, SIDE, SIDE)])
    grid = heads_first(b, b.node("Tanh", [projected(b, queries, "offsets", HEADS * POINTS * 2)]), (QUERIES, POINTS, 2))
    grid = b.node("Reshape", [grid, merged(b, QUERIES, POINTS, 2)])
    weights = heads_first(b, projected(b, queries, "weights", HEADS * POINTS), (QUERIES, POINTS))
    weights = b.node("Reshape", [b.node("Softmax", [weights], axis=-1), merged(b, 1, QUERIES, POINTS)])
    sampled = b.node("Mul", [b.node("GridSample", [values, grid], "sampled"), weights])
    y = b.node("ReduceSum", [sampled, sizes(b, -1)], keepdims=0)
    target_shape = b.node("Concat", [size_of_batch(b), sizes(b, WIDTH, QUERIES)], axis=0)
    y = b.node("Transpose", [b.node("Reshape", [y, target_shape])], perm=[0, 2, 1])
    projected(b, projected(b, y, "mixed", 20), "answer", 5)
    return b.model({"x": (batch, 3, SIDE, SIDE)}, {"answer_out": (batch, QUERIES, 5)})


def sizes(b: Builder, *values: int) -> str:
    return b.constant(b.name("sizes"), np.array(values, np.int64))


def size_of_batch(b: Builder) -> str:
    return b.node("Gather", [b.node("Shape", ["x"]), sizes(b, 0)])


def merged(b: Builder, *rest: int) -> str:
    """(batch * heads, ...) as sizes."""
    return b.node("Concat", [b.node("Mul", [size_of_batch(b), sizes(b, HEADS)]), sizes(b, *rest)], axis=0)


def projected(b: Builder, x: str, name: str, width: int) -> str:
    inputs = {"answer": 20}.get(name, WIDTH)
    return b.node("MatMul", [x, b.random(f"{name}.weight", (inputs, width), inputs)], name)


def heads_first(b: Builder, x: str, shape: tuple[int, ...], order: list[int] | None = None) -> str:
    apart = b.node("Reshape", [x, sizes(b, 0, shape[0], HEADS, *shape[1:])])
    return b.node("Transpose", [apart], perm=order or [0, 2, 1, *range(3, len(shape) + 2)])


def traced(batch: int | str, size: int = 1, attention: str = "heads") -> Trace:
    return trace_model(deformable(batch), Choices(attention), batch_size=size)  # type: ignore[arg-type]


@pytest.mark.parametrize("attention", ["heads", "dims"])
@pytest.mark.parametrize(("batch", "size"), [(1, 1), ("N", 1), ("N", 2), (2, 2)])
def test_heads_of_values_offsets_and_weights_are_one_group(batch: int | str, size: int, attention: str) -> None:
    model_trace = traced(batch, size, attention)
    group = model_trace.group("values")
    assert group.prunable
    assert group.step == (WIDTH // HEADS if attention == "heads" else HEADS)
    assert ("offsets" in group.layers) == (attention == "heads")
    keep = select(model_trace, {g.name: -(-g.channels // 2 // g.step) * g.step for g in model_trace.prunable})
    assert verify(model_trace, keep).exact
    cut = session(resize(model_trace, keep))
    for n in (size, size if isinstance(batch, int) else 3):
        x = np.random.default_rng(n).standard_normal((n, 3, SIDE, SIDE)).astype(np.float32)
        assert run(cut, {"x": x})["answer_out"].shape == (n, QUERIES, 5)


def test_reference_points_of_levels_do_not_tie_heads() -> None:
    """Points (level, coordinate) that queries predict are added to offsets (head, level, point, coordinate)."""
    b = Builder()
    x = b.node("Reshape", [b.conv("x", 3, WIDTH, name="stem"), sizes(b, 0, WIDTH, -1)])
    x = b.node("Transpose", [x], perm=[0, 2, 1])
    levels, tokens = 2, SIDE * SIDE
    offsets = projected(b, x, "offsets", HEADS * levels * POINTS * 2)
    offsets = b.node("Reshape", [offsets, sizes(b, 0, tokens, HEADS, levels, POINTS, 2)])
    points = b.node("Reshape", [projected(b, x, "points", levels * 2), sizes(b, 0, tokens, 1, levels, 1, 2)])
    y = b.node("ReduceMean", [b.node("Tanh", [b.node("Add", [points, offsets])])], axes=[3, 4, 5], keepdims=0)
    b.node("MatMul", [y, b.random("answer.weight", (HEADS, 5), HEADS)], "answer")
    proto = b.model({"x": ("N", 3, SIDE, SIDE)}, {"answer_out": ("N", tokens, 5)})
    normalise(proto)
    model_trace = trace(fold(proto))
    group = model_trace.group("offsets")
    assert group.prunable
    assert group.step == levels * POINTS * 2
    assert verify(model_trace, select(model_trace, {"offsets": 2 * group.step, "stem": 10})).exact
