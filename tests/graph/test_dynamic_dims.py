"""Heights and widths that the file leaves open stay open, unless the model runs at no other size."""

from __future__ import annotations

import numpy as np
import onnx
import pytest

import models
from netadapt_onnx.graph.fold_shapes import fold
from netadapt_onnx.graph.inputs import declared_shape
from netadapt_onnx.graph.model import load
from netadapt_onnx.graph.passes.pipeline import normalise
from netadapt_onnx.graph.runtime import random_inputs, run, session
from netadapt_onnx.surgery.criteria.selection import select
from netadapt_onnx.surgery.resize import resize
from netadapt_onnx.surgery.trace import trace
from netadapt_onnx.surgery.verify.prove import verify

SHAPES = {"image": (1, 3, 16, 24)}


def network(end: str) -> onnx.ModelProto:
    """A fully convolutional network that ends in tokens (a Reshape), at its input's size (a Resize), or doubled."""
    b = models.Builder()
    x = b.conv_bn_relu(b.conv_bn_relu("image", 3, 8), 8, 12, stride=2)
    if end == "tokens":
        size = b.node("Shape", [x])
        ends = (b.node("Gather", [size, b.constant(f"i{k}", np.array([k]))]) for k in (2, 3))
        count = b.node("Mul", list(ends))
        target = b.node("Concat", [b.constant("head", np.array([1, 12])), count], axis=0)
        x = b.node("Transpose", [b.node("Reshape", [x, target])], perm=[0, 2, 1])
        b.node("MatMul", [x, b.random("last.weight", (12, 4), 12)], "last")
        return b.model({"image": (1, 3, "H", "W")}, {"last_out": (1, "T", 4)})
    if end == "input size":
        size = b.node("Slice", [b.node("Shape", ["image"]), *(b.constant(f"s{k}", np.array([k])) for k in (2, 4))])
        size = b.node("Concat", [b.constant("head", np.array([1, 12])), size], axis=0)
        x = b.node("Resize", [x, "", "", size], mode="nearest")
    elif end == "padded":  # to one and a half times its width, then back
        half = b.node("Div", [b.node("Shape", [x], start=3), b.constant("two", np.array([2]))])
        pads = b.node("Concat", [b.constant("front", np.zeros(7, np.int64)), half], axis=0)
        wide = b.node("Pad", [b.relu(x), pads])
        bounds = [half, b.node("Shape", [wide], start=3), b.constant("last_axis", np.array([3]))]
        x = b.node("Slice", [wide, *bounds])
    elif end == "doubled":
        x = b.node("Resize", [x, "", b.constant("scales", np.array([1, 1, 2, 2], np.float32))], mode="nearest")
    b.conv(x, 12, 4, 1, name="last")
    return b.model({"image": ("N", 3, "H", "W")}, {"last_out": ("N", 4, "H2", "W2")})


@pytest.mark.parametrize("end", ["nothing", "doubled", "tokens", "input size", "padded"])
def test_they_stay_free(end: str) -> None:
    proto = network(end)
    normalise(proto)
    model_trace = trace(fold(proto, SHAPES))
    assert model_trace.folded.fixed == ()
    keep = select(model_trace, {"conv1": 4, "conv2": 6})
    assert verify(model_trace, keep).exact
    small, uncut = session(resize(model_trace, keep)), session(model_trace.folded.proto)
    original = session(proto)
    for size in ((16, 24), (32, 8), (13, 21)):
        inputs = random_inputs({"image": ((1, 3, *size), np.dtype(np.float32))})
        expected = run(original, inputs)["last_out"]
        np.testing.assert_allclose(run(uncut, inputs)["last_out"], expected, atol=1e-4 * np.abs(expected).max())
        assert run(small, inputs)["last_out"].shape == expected.shape


def flattened() -> onnx.ModelProto:
    """A classifier on all pixels, whose file leaves the sizes open that it cannot have."""
    b = models.Builder()
    x = b.node("Flatten", [b.conv("image", 3, 8)])
    count = b.node("Gather", [b.node("Shape", ["image"]), b.constant("zero", np.array([0]))])
    target = b.node("Concat", [count, b.constant("rest", np.array([-1]))], axis=0)
    b.fc(b.node("Reshape", [x, target]), 8 * 16 * 24, 5, output="y")
    return b.model({"image": ("N", 3, "H", "W")}, {"y": ("N", 5)})


def test_a_model_that_runs_at_one_size_alone_says_so_in_its_file() -> None:
    proto = flattened()
    normalise(proto)
    model_trace = trace(fold(proto, SHAPES))
    assert model_trace.folded.fixed == ("image",)
    small = resize(model_trace, select(model_trace, {"conv1": 4}))
    assert declared_shape(small.graph.input[0]) == (None, 3, 16, 24)
    assert verify(model_trace, select(model_trace, {"conv1": 4})).exact


def test_folding_leaves_the_file_it_was_given_alone() -> None:
    proto = flattened()
    normalise(proto)
    fold(proto, SHAPES)
    assert declared_shape(proto.graph.input[0]) == (None, 3, None, None)


def test_a_real_network_with_free_sizes(real_models) -> None:  # type: ignore[no-untyped-def]
    proto = load(real_models / "bodypix_mnv1_050_s16.onnx").proto
    (name,) = (value.name for value in proto.graph.input)
    model_trace = trace(fold(proto, {name: (1, 129, 161, 3)}))
    keep = select(model_trace, {g.name: g.step * max(1, g.channels // g.step // 2) for g in model_trace.prunable})
    assert verify(model_trace, keep, runs=2).exact
    small = resize(model_trace, keep)
    sizes = [(129, 161)] if model_trace.folded.fixed else [(129, 161), (161, 97)]
    assert (declared_shape(small.graph.input[0]) == (1, 129, 161, 3)) == bool(model_trace.folded.fixed)
    for size in sizes:
        inputs = random_inputs({name: ((1, *size, 3), np.dtype(np.float32))})
        expected = run(session(proto), inputs)
        assert {k: v.shape for k, v in run(session(small), inputs).items()} == {k: v.shape for k, v in expected.items()}
