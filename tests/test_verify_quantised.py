"""Proofs of quantised models: what rounding flips on a boundary is no fault, and faults behind it are still seen."""

from __future__ import annotations

import numpy as np
import onnx
from onnx import numpy_helper

import models
from netadapt_onnx.folding import fold
from netadapt_onnx.normalise import normalise
from netadapt_onnx.runtime import random_inputs, run, session
from netadapt_onnx.surgery import Trace, resize, select, trace, verify

SIZE = 48


def quantised(b: models.Builder, x: str, scale: float) -> str:
    name = b.name("q")
    step, zero = b.constant(f"{name}.scale", np.float32(scale)), b.constant(f"{name}.zero", np.int8(0))
    return b.node("DequantizeLinear", [b.node("QuantizeLinear", [x, step, zero], name), step, zero])


def network() -> onnx.ModelProto:
    """Three convolutions with levels in between that are coarse to what follows and fine to rounding."""
    b = models.Builder()
    x = quantised(b, b.conv("image", 3, 16), 0.02)
    x = quantised(b, b.conv(x, 16, 12), 0.02)
    b.head(b.conv(x, 12, 8), 8)
    return b.model({"image": (1, 3, SIZE, SIZE)}, {"logits": (1, 10)})


def cut() -> tuple[Trace, dict[str, np.ndarray], onnx.ModelProto]:
    proto = network()
    normalise(proto)
    found = trace(fold(proto))
    keep = select(found, {"conv1": 9, "conv2": 7, "conv3": 5}, "random")
    return found, keep, resize(found, keep)


def shifted(proto: onnx.ModelProto, name: str, by: float) -> onnx.ModelProto:
    """The same with one bias moved by a share of itself: what another order of sums might do."""
    copy = onnx.ModelProto()
    copy.CopyFrom(proto)
    tensor = next(t for t in copy.graph.initializer if t.name == name)
    values = numpy_helper.to_array(tensor)
    tensor.CopyFrom(numpy_helper.from_array((values * (1 + by)).astype(np.float32), name))
    return copy


def test_levels_that_rounding_flips_are_no_difference() -> None:
    found, keep, pruned = cut()
    rounded = shifted(pruned, "conv1.bias", 3e-6)
    names = ["q1_out"]
    flips = 0
    for seed in range(5):
        inputs = random_inputs(found.folded.specs, seed)
        a, b = (run(session(m, outputs=names, optimise=False), inputs, names)["q1_out"] for m in (pruned, rounded))
        flips += int((a != b).sum())
    assert flips > 0
    proof = verify(found, keep, pruned=rounded)
    assert proof.exact, proof


def test_faults_behind_a_flip_are_still_seen() -> None:
    found, keep, pruned = cut()
    for name in ("conv1.bias", "conv2.bias", "conv3.bias"):
        wrong = shifted(shifted(pruned, "conv1.bias", 3e-6), name, 2e-2)
        assert not verify(found, keep, pruned=wrong).exact, name


def test_swapped_channels_are_caught() -> None:
    found, keep, pruned = cut()
    for name in ("conv2.weight", "conv3.weight"):
        copy = onnx.ModelProto()
        copy.CopyFrom(pruned)
        tensor = next(t for t in copy.graph.initializer if t.name == name)
        values = numpy_helper.to_array(tensor).copy()
        values[:, [0, 1]] = values[:, [1, 0]]
        tensor.CopyFrom(numpy_helper.from_array(values, name))
        assert not verify(found, keep, pruned=copy).exact, name
