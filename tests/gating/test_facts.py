"""What gating counts is what `inspect` counts, also without the values of the weights."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

import attention_cases  # noqa: F401 - registers its cases
import control_cases  # noqa: F401 - likewise
import models
import rule_cases
import sampling_cases  # noqa: F401 - likewise
from models import Builder
from netadapt_onnx.api.inspect import inspect
from netadapt_onnx.errors import NetadaptError
from netadapt_onnx.gating.facts import read_facts

# What the ONNX checker refuses, onnxruntime has no kernel for, or only a run would tell the shapes of.
REFUSED = {"SimplifiedLayerNormalization", "GroupNorm", "Loop"}


def same_as_inspect(path: Path, **options: object) -> None:
    seen = inspect(path, **options)  # type: ignore[arg-type]
    facts = read_facts(path, **options)  # type: ignore[arg-type]
    assert facts.unknown == ""
    totals = seen.model
    assert (facts.params, facts.macs, facts.size_bytes, facts.memory_bytes) == (
        totals.params, totals.macs, totals.size_bytes, totals.memory_bytes,
    )  # fmt: skip
    assert [(c.name, c.op, c.params, c.macs) for c in facts.layers] == [
        (c.name, c.op, c.params, c.macs) for c in seen.layers
    ]


@pytest.mark.parametrize("name", models.ALL)
def test_small_models(name: str, tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    path.write_bytes(models.ALL[name]().SerializeToString())
    same_as_inspect(path)


@pytest.mark.parametrize("case", [case for case in rule_cases.CASES if case[1] not in REFUSED], ids=lambda c: c[1])
def test_every_operator(case: tuple[str, str], tmp_path: Path) -> None:
    proto = rule_cases.build(*case)
    proto.graph.output[0].type.CopyFrom(helper.make_tensor_type_proto(TensorProto.FLOAT, ["a", "b", "c", "d"]))
    path = tmp_path / "m.onnx"
    path.write_bytes(proto.SerializeToString())
    same_as_inspect(path)


def test_real_models(real_models: Path) -> None:
    shapes = {"bodypix_mnv1_050_s16": {"input": (1, 224, 224, 3)}}
    unlike = {"light_squeezenet"}  # the shape of a Dropout's mask is nowhere declared
    for path in sorted(real_models.glob("*.onnx")):
        if path.stem not in unlike:
            same_as_inspect(path, shapes=shapes.get(path.stem))


def test_shape_arithmetic_and_large_weights_through_views(tmp_path: Path) -> None:
    b = Builder()
    x = b.conv("image", 3, 64)
    shape = b.node("Shape", [x])
    batch = b.node("Gather", [shape, b.constant("zero", np.array([0]))])
    target = b.node("Concat", [batch, b.constant("rest", np.array([-1]))], axis=0)
    flat = b.node("Reshape", [x, target])
    weight = b.node("Transpose", [b.random("fc.weight", (10, 64 * 64))], perm=[1, 0])
    b.node("MatMul", [flat, weight], "fc", "logits")
    path = tmp_path / "m.onnx"
    path.write_bytes(b.model({"image": ("N", 3, 8, 8)}, {"logits": ("N", 10)}).SerializeToString())
    same_as_inspect(path)
    same_as_inspect(path, batch_size=3)


def test_no_loop_is_run_for_its_shapes_and_the_rest_is_counted(tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    path.write_bytes(models.endless().SerializeToString())
    facts = read_facts(path)
    assert facts.params == 224
    assert facts.macs == 8 * 27 * 64
    assert facts.memory_bytes is None
    assert "'seen'" in facts.unknown


def test_an_open_axis_leaves_params_and_size(tmp_path: Path) -> None:
    b = Builder()
    b.conv("image", 3, 8, name="only")
    path = tmp_path / "m.onnx"
    path.write_bytes(b.model({"image": ("N", 3, "H", "W")}, {"only_out": ("N", 8, "H", "W")}).SerializeToString())
    facts = read_facts(path)
    assert (facts.params, facts.macs, facts.memory_bytes) == (224, None, None)
    assert facts.size_bytes == path.stat().st_size
    assert "--shape image=" in facts.unknown
    same_as_inspect(path, shapes={"image": (1, 3, 8, 8)})


def test_digests_tell_weights_apart_wherever_they_are_kept(tmp_path: Path) -> None:
    inside, outside = tmp_path / "inside.onnx", tmp_path / "outside.onnx"
    inside.write_bytes(models.plain((64, 64)).SerializeToString())
    onnx.save_model(models.plain((64, 64)), str(outside), save_as_external_data=True, location="w", size_threshold=0)
    other = tmp_path / "other.onnx"
    other.write_bytes(models.plain((64, 64), seed=1).SerializeToString())
    a, b, c = (read_facts(path, digests=True).layers for path in (inside, outside, other))
    assert [layer.digest for layer in a] == [layer.digest for layer in b]
    assert all(x.digest != y.digest for x, y in zip(a, c, strict=True))


def test_a_constant_of_terabytes_is_not_made_and_can_be_refused(tmp_path: Path) -> None:
    b = Builder()
    big = b.node("ConstantOfShape", [b.constant("shape", np.array([1 << 40]))], "bomb")
    x = b.node("Gather", [big, b.constant("one", np.array([1]))])
    b.node("Add", ["x", x], output="y")
    path = tmp_path / "m.onnx"
    path.write_bytes(b.model({"x": (1,)}, {"y": (1,)}).SerializeToString())
    with pytest.raises(NetadaptError, match=r"'bomb_out' would take 4\.4e\+03 GB"):
        read_facts(path, largest_bytes=10**9)
    assert read_facts(path).size_bytes == path.stat().st_size
