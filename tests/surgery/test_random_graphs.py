"""Random small graphs, any keep set: pruned equals masked, and predicted shapes are the real ones."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from models import Builder
from netadapt_onnx.graph.fold_shapes import fold
from netadapt_onnx.graph.passes.pipeline import normalise
from netadapt_onnx.graph.runtime import random_inputs, run, session
from netadapt_onnx.surgery.criteria.selection import select
from netadapt_onnx.surgery.cut import arrange
from netadapt_onnx.surgery.resize import resize
from netadapt_onnx.surgery.trace import trace
from netadapt_onnx.surgery.verify.prove import verify

SIZE = 6


def grown(b: Builder, x: str, channels: int, steps: list[int]) -> tuple[str, int]:
    """Apply one random operation after another; every intermediate of the right width may be added back in."""
    seen = [(x, channels)]
    for step in steps:
        kind, pick = step % 9, step // 9
        if kind == 0:
            x, channels = b.conv(x, channels, 2 + pick % 7, 1 + 2 * (pick % 2)), 2 + pick % 7
        elif kind == 1:
            x = b.batchnorm(x, channels)
        elif kind == 2:
            x = b.conv(x, channels, channels, group=channels)
        elif kind == 3:
            other, width = seen[pick % len(seen)]
            x, channels = b.node("Concat", [x, other], axis=1), channels + width
        elif kind == 4:
            same = [name for name, width in seen if width == channels]
            x = b.node("Add", [x, same[pick % len(same)]]) if same else b.relu(x)
        elif kind == 5:
            gate = b.conv(b.node("GlobalAveragePool", [x]), channels, channels, 1)
            x = b.node("Mul", [x, b.node("Sigmoid", [gate])])
        elif kind == 6 and channels > 2:
            start = pick % (channels - 1)
            bounds = [b.constant(b.name("cut"), np.array([v])) for v in (start, channels, 1)]
            x, channels = b.node("Slice", [x, *bounds]), channels - start
        elif kind == 7 and channels % 2 == 0:  # a channel shuffle in two groups
            split = b.constant(b.name("shape"), np.array([0, 2, channels // 2, SIZE, SIZE]))
            x = b.node("Transpose", [b.node("Reshape", [x, split])], perm=[0, 2, 1, 3, 4])
            x = b.node("Reshape", [x, b.constant(b.name("shape"), np.array([0, channels, SIZE, SIZE]))])
        elif kind == 8 and channels % 2 == 0:
            width = 2 * (1 + pick % 3)
            x, channels = b.conv(x, channels, width, group=2), width
        else:
            x = b.relu(x)
        seen.append((x, channels))
    return x, channels


@st.composite
def networks(draw: st.DrawFn) -> onnx.ModelProto:
    b = Builder(draw(st.integers(0, 99)))
    steps = draw(st.lists(st.integers(0, 9 * 30), min_size=1, max_size=10))
    x, channels = grown(b, b.conv("image", 3, 6, 1), 6, steps)
    b.head(x, channels, 4)
    return b.model({"image": ("N", 3, SIZE, SIZE)}, {"logits": ("N", 4)})


@pytest.mark.seconds
@settings(max_examples=150, deadline=None, derandomize=True)
@given(networks(), st.randoms(use_true_random=False))
def test_pruning_equals_masking_on_any_graph(proto: onnx.ModelProto, random) -> None:  # type: ignore[no-untyped-def]
    normalise(proto)
    traced = trace(fold(proto))
    counts = {g.name: g.step * random.randint(1, g.channels // g.step) for g in traced.prunable}
    scores = {g.name: np.array([random.random() for _ in range(g.channels)]) for g in traced.prunable}
    keep = select(traced, counts, lambda _, group: scores[group.name])
    pruned = resize(traced, keep)
    assert traced.resized_shapes(keep) == dict(fold(pruned).shapes)
    result = verify(traced, keep, pruned=pruned)
    assert result.first_bad_tensor is None, result


@pytest.mark.seconds
@settings(max_examples=100, deadline=None, derandomize=True)
@given(networks(), st.randoms(use_true_random=False))
def test_growing_then_pruning_the_new_channels_gives_the_original_back(proto: onnx.ModelProto, random) -> None:  # type: ignore[no-untyped-def]
    normalise(proto)
    traced = trace(fold(proto))
    wider = select(traced, {g.name: g.channels + g.step * random.randint(0, 3) for g in traced.prunable})
    grown = resize(traced, wider)
    again = trace(fold(grown))
    assert traced.resized_shapes(wider) == again.folded.shapes
    originals = {}
    for name in wider:
        members = traced.members[name]
        _, copy = arrange(traced.copies(wider)[members], [members])
        originals[name] = np.flatnonzero(copy == 0)
    back = resize(again, originals)
    inputs = random_inputs(traced.folded.specs)
    expected, got = (run(session(m), inputs, ["logits"])["logits"] for m in (traced.folded.proto, back))
    np.testing.assert_array_equal(got, expected)
