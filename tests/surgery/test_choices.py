"""What a model's structure leaves open: heads or their dimensions, inputs and outputs that may change shape."""

from __future__ import annotations

import numpy as np
import onnx
import pytest

import models
from models import STATES, stateful_lstm
from netadapt_onnx.errors import NetadaptError
from netadapt_onnx.graph.fold_shapes import fold
from netadapt_onnx.surgery.criteria.selection import select
from netadapt_onnx.surgery.labels import Choices
from netadapt_onnx.surgery.resize import resize
from netadapt_onnx.surgery.verify.prove import verify
from tracing import trace_model

HEADS, DIM, TOKENS = 3, 4, 5
WIDTH = HEADS * DIM


def attention() -> onnx.ModelProto:
    b = models.Builder()
    q, k, v = (b.node("MatMul", ["x", b.random(f"{n}.weight", (WIDTH, WIDTH), WIDTH)], n) for n in ("q", "k", "v"))
    shape = b.constant("split", np.array([0, 0, HEADS, DIM]))
    q, k, v = (b.node("Transpose", [b.node("Reshape", [t, shape])], perm=[0, 2, 1, 3]) for t in (q, k, v))
    scores = b.node("MatMul", [q, b.node("Transpose", [k], perm=[0, 1, 3, 2])])
    scores = b.node("Softmax", [b.node("Mul", [scores, b.constant("scale", np.float32(DIM**-0.5))])], axis=-1)
    mixed = b.node("Transpose", [b.node("MatMul", [scores, v])], perm=[0, 2, 1, 3])
    flat = b.node("Reshape", [mixed, b.constant("join", np.array([0, 0, WIDTH]))])
    b.node("MatMul", [flat, b.random("o.weight", (WIDTH, WIDTH), WIDTH)], "o")
    return b.model({"x": (2, TOKENS, WIDTH)}, {"o_out": (2, TOKENS, WIDTH)})


def test_dimensions_of_heads_go_from_every_head_alike() -> None:
    traced = trace_model(attention(), Choices(attention="dims"))
    groups = {g.name: (g.channels, g.step, g.layers) for g in traced.prunable}
    assert groups == {"q": (WIDTH, HEADS, ("q", "k")), "v": (WIDTH, HEADS, ("v",))}
    keep = select(traced, {"q": 2 * HEADS, "v": 3 * HEADS})
    pruned = resize(traced, keep)
    assert verify(traced, keep, pruned=pruned).exact
    assert fold(pruned).shapes["o_out"] == (2, TOKENS, WIDTH)


def test_states_from_outside_fix_hidden_units_unless_they_may_be_resized() -> None:
    assert not trace_model(stateful_lstm(), Choices()).prunable
    assert not trace_model(stateful_lstm(), Choices(resize_io=STATES[:2])).prunable
    traced = trace_model(stateful_lstm(), Choices(resize_io=STATES))
    keep = {"lstm": np.array([0, 2, 7])}
    pruned = resize(traced, keep)
    assert verify(traced, keep, pruned=pruned).exact
    onnx.checker.check_model(pruned, full_check=True)
    values = {v.name: v for v in (*pruned.graph.input, *pruned.graph.output)}
    assert all([d.dim_value for d in values[n].type.tensor_type.shape.dim] == [1, 2, 3] for n in STATES)
    assert [d.dim_value for d in values["x"].type.tensor_type.shape.dim] == [7, 2, 5]


def test_a_wrong_name_is_named() -> None:
    with pytest.raises(NetadaptError, match="no input or output 'h9'; one of x, h0, c0, out_out"):
        trace_model(stateful_lstm(), Choices(resize_io=("h9",)))
