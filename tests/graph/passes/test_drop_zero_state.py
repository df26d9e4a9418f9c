"""Recurrent layers that start from zeros do without an initial state."""

from __future__ import annotations

import numpy as np
import onnx

import models
from netadapt_onnx.surgery.verify.prove import verify
from tracing import trace_model


def stacked_lstm(initial: float) -> onnx.ModelProto:
    """Two LSTMs whose initial states are parts of one tensor of (2, batch, 8) filled with `initial`."""
    b = models.Builder()
    batch = b.node("Shape", ["x"], end=1)
    ends = [b.constant(f"size{n}", np.array([n])) for n in (2, 8)]
    shape = b.node("Concat", [ends[0], batch, ends[1]], axis=0)
    state = b.node("Expand", [b.constant("fill", np.full((1, 1, 1), initial, np.float32)), shape])
    x, inputs = b.node("Transpose", ["x"], perm=[1, 0, 2]), 5
    for layer in range(2):
        h0 = b.node("Gather", [state, b.constant(f"layer{layer}", np.array([layer]))], axis=0)
        name = f"lstm{layer}"
        weights = [
            b.random(f"{name}.W", (1, 32, inputs), inputs),
            b.random(f"{name}.R", (1, 32, 8), 8),
            b.random(f"{name}.B", (1, 64)),
        ]
        y = b.node("LSTM", [x, *weights, "", h0, h0], name, hidden_size=8)
        x, inputs = b.node("Squeeze", [y, b.constant(f"axis{layer}", np.array([1]))]), 8
    b.node("MatMul", [x, b.random("out.weight", (8, 4), 8)], "out")
    return b.model({"x": ("N", 7, 5)}, {"out_out": (7, "N", 4)})


def test_stacked_layers_that_start_from_zeros_have_hidden_sizes_of_their_own() -> None:
    model_trace = trace_model(stacked_lstm(0.0))
    assert {g.name: g.layers for g in model_trace.prunable} == {"lstm0": ("lstm0",), "lstm1": ("lstm1",)}
    assert verify(model_trace, {"lstm0": np.array([0, 3, 4]), "lstm1": np.array([5, 6])}).exact


def test_layers_that_share_other_initial_values_keep_the_same_units() -> None:
    model_trace = trace_model(stacked_lstm(0.5))
    assert {g.name: g.layers for g in model_trace.prunable} == {"lstm0": ("lstm0", "lstm1")}
    assert verify(model_trace, {"lstm0": np.array([0, 3, 4])}).exact
