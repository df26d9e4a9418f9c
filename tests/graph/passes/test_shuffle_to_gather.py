"""A channel shuffle becomes one Gather, however it is spelled, and then couples nothing that need not be coupled."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx
import pytest

import models
from netadapt_onnx.graph.fold_shapes import fold
from netadapt_onnx.graph.passes.pipeline import normalise
from netadapt_onnx.graph.runtime import random_inputs, run, session
from netadapt_onnx.surgery.criteria.selection import select
from netadapt_onnx.surgery.resize import resize
from netadapt_onnx.surgery.trace import trace
from netadapt_onnx.surgery.verify.prove import verify
from tracing import trace_model

SIZE = 6


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
    model_trace = trace_model(shuffle_net(3))
    assert all(g.step == 1 for g in model_trace.prunable)
    assert sum(g.channels for g in model_trace.prunable) == 16 + 3 * (8 + 8)
    keep = select(model_trace, {g.name: -(-g.channels // 2) for g in model_trace.prunable}, "random")
    pruned = resize(model_trace, keep)
    assert verify(model_trace, keep, pruned=pruned).exact
    assert "Transpose" not in {n.op_type for n in pruned.graph.node}


def test_a_shuffle_computes_the_same_as_a_gather() -> None:
    proto = shuffle_net(2)
    normalise(proto)
    folded = fold(proto, batch_size=2)
    inputs = random_inputs(folded.specs)
    expected = run(session(folded.proto), inputs, ["logits"])["logits"]
    got = run(session(trace(folded).folded.proto), inputs, ["logits"])["logits"]
    np.testing.assert_array_equal(got, expected)


def spatial(b: models.Builder, *sizes: int) -> str:
    return b.constant(b.name("sizes"), np.array([*sizes, SIZE, SIZE]))


def picked(b: models.Builder, x: str, axis: int, index: int | list[int]) -> str:
    return b.node("Gather", [x, b.constant(b.name("index"), np.array(index))], axis=axis)


def halves_by_gather(b: models.Builder, x: str) -> tuple[str, str]:
    """FastestDet's and NanoDet's: even and odd channels are picked off a leading axis."""
    x = b.node("Reshape", [x, b.constant(b.name("split"), np.array([8, 2, SIZE * SIZE]))])
    x = b.node("Reshape", [b.node("Transpose", [x], perm=[1, 0, 2]), spatial(b, 2, -1, 8)])
    return picked(b, x, 0, 0), picked(b, x, 0, 1)


def halves_by_split(b: models.Builder, x: str) -> tuple[str, str]:
    x = b.node("Reshape", [x, spatial(b, 0, 8, 2)])
    names = [b.name("part"), b.name("part")]
    b.nodes.append(onnx.helper.make_node("Split", [x], names, b.name("split"), axis=2))
    squeezed = [b.node("Squeeze", [name, b.constant(b.name("axis"), np.array([2]))]) for name in names]
    return squeezed[0], squeezed[1]


def halves_by_slice(b: models.Builder, x: str) -> tuple[str, str]:
    """Of a channels-last tensor whose last axis is split."""
    x = b.node("Transpose", [x], perm=[0, 2, 3, 1])
    x = b.node("Reshape", [x, b.constant(b.name("split"), np.array([0, SIZE, SIZE, 8, 2]))])
    parts = []
    for k in range(2):
        bounds = [b.constant(b.name("bound"), np.array([v])) for v in (k, k + 1, 4)]
        part = b.node("Squeeze", [b.node("Slice", [x, *bounds]), b.constant(b.name("axis"), np.array([4]))])
        parts.append(b.node("Transpose", [part], perm=[0, 3, 1, 2]))
    return parts[0], parts[1]


def halves_by_index(b: models.Builder, x: str) -> tuple[str, str]:
    """Contiguous halves of a shuffle in two groups, by a constant index of several axes' length."""
    x = b.node("Transpose", [b.node("Reshape", [x, spatial(b, 0, 8, 2)])], perm=[0, 2, 1, 3, 4])
    halves = [b.node("Reshape", [picked(b, x, 1, [k]), spatial(b, 0, 8)]) for k in range(2)]
    return halves[0], halves[1]


def halves_after_stacking(b: models.Builder, x: str) -> tuple[str, str]:
    """Halves are stacked on a new axis and flattened, which interleaves them, and split again."""
    parts = [half(b, x, 0, 8), half(b, x, 8, 16)]
    parts = [b.node("Unsqueeze", [part, b.constant(b.name("axis"), np.array([2]))]) for part in parts]
    x = b.node("Reshape", [b.node("Concat", parts, axis=2), spatial(b, 0, 16)])
    return half(b, x, 0, 8), half(b, x, 8, 16)


SPELLINGS = (halves_by_gather, halves_by_split, halves_by_slice, halves_by_index, halves_after_stacking)


def other_shuffle_net(spelling: Callable[[models.Builder, str], tuple[str, str]], units: int) -> onnx.ModelProto:
    """Units that shuffle first: one half passes, the other goes through a branch."""
    b = models.Builder()
    x = b.conv("image", 3, 16)
    for _ in range(units):
        first, second = spelling(b, x)
        x = b.node("Concat", [first, b.relu(b.conv(second, 8, 8, 1))], axis=1)
    b.head(x, 16)
    return b.model({"image": ("N", 3, SIZE, SIZE)}, {"logits": ("N", 10)})


@pytest.mark.parametrize("spelling", SPELLINGS, ids=lambda spelling: spelling.__name__)
def test_a_shuffle_is_one_however_it_is_spelled(spelling: Callable[[models.Builder, str], tuple[str, str]]) -> None:
    model_trace = trace_model(other_shuffle_net(spelling, 3))
    free = [g for g in model_trace.groups if g.step == 1 and "graph output" not in str(g.reason)]
    assert sum(g.channels for g in free) == 16 + 3 * 8  # one that is alone in its places cannot go, but is not tied
    keep = select(model_trace, {g.name: -(-g.channels // 2) for g in model_trace.prunable}, "random")
    pruned = resize(model_trace, keep)
    assert verify(model_trace, keep, pruned=pruned).exact
    assert {"Gather", "Slice"} & {n.op_type for n in pruned.graph.node}


@pytest.mark.parametrize("spelling", SPELLINGS, ids=lambda spelling: spelling.__name__)
def test_what_replaces_a_shuffle_computes_the_same(spelling: Callable[[models.Builder, str], tuple[str, str]]) -> None:
    proto = other_shuffle_net(spelling, 2)
    normalise(proto)
    folded = fold(proto)
    inputs = random_inputs(folded.specs)
    expected = run(session(folded.proto), inputs, ["logits"])["logits"]
    other = trace(folded).folded.proto
    np.testing.assert_array_equal(run(session(other), inputs, ["logits"])["logits"], expected)
    assert len(other.graph.node) < len(folded.proto.graph.node)


def test_a_shuffle_whose_inside_something_else_reads_stays() -> None:
    """Its channels are spread over two axes for the other reader anyway."""
    b = models.Builder()
    x = b.node("Reshape", [b.conv("image", 3, 16), spatial(b, 0, 8, 2)])
    peak = b.node("ReduceMax", [x], axes=[3, 4], keepdims=1)
    y = b.node("Reshape", [b.node("Transpose", [x], perm=[0, 2, 1, 3, 4]), spatial(b, 0, 16)])
    z = b.node("Reshape", [b.node("Mul", [x, peak]), spatial(b, 0, 16)])
    b.head(b.node("Concat", [y, z], axis=1), 32)
    model_trace = trace_model(b.model({"image": ("N", 3, SIZE, SIZE)}, {"logits": ("N", 10)}))
    assert "Transpose" in {n.op_type for n in model_trace.folded.proto.graph.node}
    (group,) = model_trace.prunable
    assert (group.channels, group.step) == (16, 2)
    keep = select(model_trace, {group.name: group.channels // 2}, "random")
    assert verify(model_trace, keep).exact


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
    model_trace = trace_model(b.model({"image": (1, 3, SIZE, SIZE)}, {"logits": (1, 10)}))
    assert "Gather" not in {n.op_type for n in model_trace.folded.proto.graph.node}
