"""Variants of a model are judged from the first change on: the same answers for less."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import onnx
import pytest

import models
from netadapt_onnx.data.dataset import Split
from netadapt_onnx.data.evaluate import outputs
from netadapt_onnx.graph.fold_shapes import fold
from netadapt_onnx.search.channel_selection import prefix_before_group
from netadapt_onnx.surgery.criteria.selection import select
from netadapt_onnx.surgery.reconstruct.gram import gram_matrices, original_targets
from netadapt_onnx.surgery.reconstruct.least_squares import reconstruct
from netadapt_onnx.surgery.trace import Trace, trace
from netadapt_onnx.training.activation_cache import ActivationCache


def samples(count: int = 70) -> Split:
    x = np.random.default_rng(3).standard_normal((count, 3, 16, 16)).astype(np.float32)
    return Split({"image": x}, np.arange(count) % 10)


def variants(original: Trace, split: Split) -> list[onnx.ModelProto]:
    inputs = split.batch(slice(0, 32))
    statistics = gram_matrices(original, inputs, original_targets(original, inputs))
    cuts = [select(original, {group.name: group.channels // 2}) for group in original.prunable]
    return [reconstruct(original, keep, statistics) for keep in cuts]


@pytest.mark.parametrize("build", [models.plain, models.residual, models.concatenated, models.grouped])
@pytest.mark.parametrize("batch", [None, 4])
def test_shortened_variants_answer_the_same(build: Callable[..., onnx.ModelProto], batch: int | None) -> None:
    proto = build(size=16)
    if batch is not None:
        for value in (*proto.graph.input, *proto.graph.output):
            value.type.tensor_type.shape.dim[0].dim_value = batch
    original = trace(fold(proto))
    split = samples()
    prefixes = ActivationCache(
        original.folded.proto, [prefix_before_group(original, group) for group in original.prunable], split
    )
    shorter = 0
    for variant in variants(original, split):
        rest, rest_split = prefixes.shortened(variant)
        shorter += len(rest.graph.node) < len(variant.graph.node)
        assert np.array_equal(rest_split.targets(), split.targets())
        expected, answers = outputs(variant, split), outputs(rest, rest_split)
        for name, value in expected.items():
            assert np.abs(answers[name] - value).max() <= 1e-5 * value.std()
    assert shorter >= len(original.prunable) - 1  # nothing lies in front of the first group


def test_an_axis_as_long_as_the_batch_is_not_taken_for_it() -> None:
    """64 positions in front of the batch, as recurrent networks and torch's attention have them; batches of 64."""
    b = models.Builder()
    x = b.node("Reshape", [b.conv("image", 3, 8, stride=2), b.constant("target", np.array([0, 8, 64]))])
    x = b.node("Transpose", [x], perm=[2, 0, 1])
    for name, inputs, outputs_ in (("m1", 8, 12), ("m2", 12, 12), ("m3", 12, 5)):
        x = b.relu(b.node("MatMul", [x, b.random(f"{name}.weight", (inputs, outputs_), inputs)], name))
    b.node("ReduceMean", [b.node("Transpose", [x], perm=[1, 0, 2])], output="logits", axes=[1], keepdims=0)
    original = trace(fold(b.model({"image": ("N", 3, 16, 16)}, {"logits": ("N", 5)})))
    split = samples()
    prefixes = ActivationCache(
        original.folded.proto, [prefix_before_group(original, group) for group in original.prunable], split
    )
    for variant in variants(original, split):
        expected = outputs(variant, split)["logits"]
        answers = outputs(*prefixes.shortened(variant))["logits"]
        assert np.abs(answers - expected).max() <= 1e-5 * expected.std()


def test_what_changed_in_front_is_not_left_out() -> None:
    original = trace(fold(models.plain((8, 8, 8), size=16)))
    split = samples()
    prefixes = ActivationCache(
        original.folded.proto, [prefix_before_group(original, group) for group in original.prunable], split
    )
    variant = onnx.ModelProto()
    variant.CopyFrom(original.folded.proto)
    first = next(t for t in variant.graph.initializer if t.name == "conv1.weight")
    first.CopyFrom(onnx.numpy_helper.from_array(onnx.numpy_helper.to_array(first) * 2, first.name))
    rest, rest_split = prefixes.shortened(variant)
    assert rest is variant
    assert rest_split is split


def test_fronts_that_take_too_much_are_not_kept() -> None:
    original = trace(fold(models.plain((8, 8, 8), size=16)))
    split = samples()
    fronts = [prefix_before_group(original, group) for group in original.prunable]
    assert (
        ActivationCache(original.folded.proto, fronts, split, most_bytes=0).shortened(original.folded.proto)[1] is split
    )
    some = ActivationCache(original.folded.proto, fronts, split, most_bytes=70 * 8 * 64 * 4)
    rest, _ = some.shortened(original.folded.proto)
    assert len(rest.graph.node) < len(original.folded.proto.graph.node)


KILLED = """
import os, signal
import numpy as np
import models
from netadapt_onnx.data.dataset import Split
from netadapt_onnx.training.activation_cache import ActivationCache, unchanged_prefix

proto = models.plain((8, 8, 8), size=16)
split = Split({"image": np.zeros((70, 3, 16, 16), np.float32)}, np.zeros(70, np.int64))
cache = ActivationCache(proto, [unchanged_prefix(proto, {"conv2.weight"})], split)
assert cache.shortened(proto)[1] is not split
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_nothing_stays_of_a_process_that_is_killed(tmp_path: Path) -> None:
    environment = {**os.environ, "TMPDIR": str(tmp_path), "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run([sys.executable, "-c", KILLED], env=environment, check=False)
    assert done.returncode == -signal.SIGKILL
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no device that is always full")
def test_a_full_disk_is_an_error_and_no_death(monkeypatch: pytest.MonkeyPatch) -> None:
    original = trace(fold(models.plain((8, 8), size=16)))
    monkeypatch.setattr(tempfile, "TemporaryFile", partial(Path("/dev/full").open, "r+b"))
    with pytest.raises(OSError, match="No space left"):
        ActivationCache(
            original.folded.proto, [prefix_before_group(original, group) for group in original.prunable], samples()
        )
