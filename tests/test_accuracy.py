"""Accuracy in onnxruntime: against labels, and against a reference model where there are none."""

from __future__ import annotations

import numpy as np
import onnx
import pytest

from models import Builder, channels_last, plain, transposed
from netadapt_onnx.errors import NetadaptError
from netadapt_onnx.runtime import run, session
from netadapt_onnx.training.data import Split
from netadapt_onnx.training.evaluate import accuracy, agreement, outputs


def split(count: int, *shape: int, labelled: bool = True) -> Split:
    rng = np.random.default_rng(0)
    x = rng.standard_normal((count, *shape)).astype(np.float32)
    return Split({"image": x}, rng.integers(0, 10, count) if labelled else None)


def test_top1_counts_hits() -> None:
    proto, held = plain(), split(150, 3, 16, 16)
    scores = run(session(proto), held.batch(slice(None)))["logits"]
    found = accuracy(proto, held)
    assert (found.metric, found.samples) == ("top1", 150)
    assert found.value == pytest.approx(float(np.mean(scores.argmax(1) == held.labels)), abs=1e-9)


def test_a_fixed_batch_is_fed_one_by_one() -> None:
    proto, held = channels_last(), split(5, 8, 8, 3)
    assert proto.graph.input[0].type.tensor_type.shape.dim[0].dim_value == 1
    found = outputs(proto, held)["logits"]
    active = session(proto)
    wanted = np.concatenate([run(active, held.batch(slice(i, i + 1)))["logits"] for i in range(5)])
    np.testing.assert_array_equal(found, wanted)


def test_a_fixed_batch_of_several_is_filled_up() -> None:
    b = Builder()
    b.head(b.conv("image", 3, 8), 8)
    proto = b.model({"image": (4, 3, 8, 8)}, {"logits": (4, 10)})
    held = split(6, 3, 8, 8)
    found = outputs(proto, held)["logits"]
    assert found.shape == (6, 10)
    np.testing.assert_array_equal(found[:4], run(session(proto), held.batch(slice(0, 4)))["logits"])


def test_a_model_agrees_with_itself() -> None:
    for proto, size in ((plain(), 16), (transposed(), 16)):
        held = split(20, 3, size, size, labelled=False)
        found = accuracy(proto, held, reference=outputs(proto, held))
        assert (found.value, found.metric) == (1.0, "agreement")


def test_agreement_falls_with_the_error() -> None:
    wanted = {"mask": np.random.default_rng(0).standard_normal((4, 2, 8, 8)).astype(np.float32)}
    shares = [agreement({"mask": wanted["mask"] * (1 - e)}, wanted) for e in (0.1, 0.5)]
    assert shares == pytest.approx([0.99, 0.75], abs=0.01)
    assert agreement({"mask": -wanted["mask"]}, wanted) == 0


def test_what_cannot_be_judged_is_refused() -> None:
    proto: onnx.ModelProto = plain()
    with pytest.raises(NetadaptError, match="original model's outputs"):
        accuracy(proto, split(4, 3, 16, 16, labelled=False))
    with pytest.raises(NetadaptError, match="no samples"):
        accuracy(proto, split(4, 3, 16, 16).subset(slice(0, 0)))
