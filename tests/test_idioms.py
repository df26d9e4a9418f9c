"""Idioms are replaced by the operator they spell, and then couple nothing that need not be coupled."""

from __future__ import annotations

import numpy as np
import onnx
import pytest

import models
from netadapt_onnx.folding import fold
from netadapt_onnx.normalise import normalise
from netadapt_onnx.runtime import random_inputs, run, session
from netadapt_onnx.surgery import Trace, resize, select, trace, verify

SIZE = 6


def traced(proto: onnx.ModelProto) -> Trace:
    normalise(proto)
    return trace(fold(proto))


def shuffled(b: models.Builder, x: str, channels: int, groups: int = 2) -> str:
    split = b.constant(b.name("split"), np.array([0, groups, channels // groups, SIZE, SIZE]))
    x = b.node("Transpose", [b.node("Reshape", [x, split])], perm=[0, 2, 1, 3, 4])
    return b.node("Reshape", [x, b.constant(b.name("join"), np.array([0, channels, SIZE, SIZE]))])


def half(b: models.Builder, x: str, start: int, end: int) -> str:
    return b.node("Slice", [x, *(b.constant(b.name("cut"), np.array([v])) for v in (start, end, 1))])


def shuffle_net(units: int) -> onnx.ModelProto:
    """ShuffleNetV2's units: half of the channels pass, the other half goes through a branch, both are shuffled."""
    b = models.Builder()
    x = b.conv("image", 3, 16)
    for _ in range(units):
        branch = b.conv(half(b, x, 8, 16), 8, 8, 1)
        branch = b.conv(b.relu(b.conv(branch, 8, 8, group=8)), 8, 8, 1)
        x = shuffled(b, b.node("Concat", [half(b, x, 0, 8), branch], axis=1), 16)
    b.head(x, 16)
    return b.model({"image": ("N", 3, SIZE, SIZE)}, {"logits": ("N", 10)})


def test_channels_of_shuffled_branches_are_free_of_each_other() -> None:
    found = traced(shuffle_net(3))
    assert all(g.step == 1 for g in found.prunable)
    assert sum(g.channels for g in found.prunable) == 16 + 3 * (8 + 8)
    keep = select(found, {g.name: -(-g.channels // 2) for g in found.prunable}, "random")
    pruned = resize(found, keep)
    assert verify(found, keep, pruned=pruned).exact
    assert "Transpose" not in {n.op_type for n in pruned.graph.node}


def test_a_shuffle_computes_the_same_as_a_gather() -> None:
    proto = shuffle_net(2)
    normalise(proto)
    folded = fold(proto, batch_size=2)
    inputs = random_inputs(folded.specs)
    wanted = run(session(folded.proto), inputs, ["logits"])["logits"]
    got = run(session(trace(folded).folded.proto), inputs, ["logits"])["logits"]
    np.testing.assert_array_equal(got, wanted)


@pytest.mark.parametrize("channels_last", [False, True])
def test_what_mixes_axes_is_no_shuffle(channels_last: bool) -> None:
    """Pixels that change places with channels stay as they are."""
    b = models.Builder()
    x = b.conv("image", 3, 4 * SIZE * SIZE, 1)
    shape = b.constant("flat", np.array([0, 4 * SIZE * SIZE, SIZE * SIZE]))
    order = [0, 2, 1] if channels_last else [1, 0, 2]
    x = b.node("Transpose", [b.node("Reshape", [x, shape])], perm=order)
    x = b.node("Reshape", [x, b.constant("back", np.array([1, 4 * SIZE * SIZE, SIZE, SIZE]))])
    b.head(x, 4 * SIZE * SIZE)
    found = traced(b.model({"image": (1, 3, SIZE, SIZE)}, {"logits": (1, 10)}))
    assert "Gather" not in {n.op_type for n in found.folded.proto.graph.node}


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
    found = traced(stacked_lstm(0.0))
    assert {g.name: g.layers for g in found.prunable} == {"lstm0": ("lstm0",), "lstm1": ("lstm1",)}
    assert verify(found, {"lstm0": np.array([0, 3, 4]), "lstm1": np.array([5, 6])}).exact


def test_layers_that_share_other_initial_values_keep_the_same_units() -> None:
    found = traced(stacked_lstm(0.5))
    assert {g.name: g.layers for g in found.prunable} == {"lstm0": ("lstm0", "lstm1")}
    assert verify(found, {"lstm0": np.array([0, 3, 4])}).exact
