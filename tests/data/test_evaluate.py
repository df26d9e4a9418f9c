"""Accuracy in onnxruntime: against labels, and against a reference model where there are none."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from models import Builder, channels_last, plain, transposed
from netadapt_onnx.data.dataset import Split
from netadapt_onnx.data.evaluate import accuracy, accuracy_of_part, agreement, outputs
from netadapt_onnx.errors import NetadaptError
from netadapt_onnx.graph.runtime import run, session


def split(count: int, *shape: int, labelled: bool = True) -> Split:
    rng = np.random.default_rng(0)
    x = rng.standard_normal((count, *shape)).astype(np.float32)
    return Split({"image": x}, rng.integers(0, 10, count) if labelled else None)


def test_top1_counts_hits() -> None:
    proto, held = plain(), split(150, 3, 16, 16)
    scores = run(session(proto), held.batch(slice(None)))["logits"]
    score = accuracy(proto, held)
    assert (score.metric, score.samples) == ("top1", 150)
    assert score.value == pytest.approx(float(np.mean(scores.argmax(1) == held.labels)), abs=1e-9)


@pytest.mark.parametrize("labels", ["classes", "values"])
def test_some_samples_of_a_split_score_in_the_same_pass_what_they_score_alone(labels: str) -> None:
    proto, held = plain(), split(150, 3, 16, 16)
    if labels == "values":  # whose metric, R2, is no mean over samples
        scores = run(session(proto), held.batch(slice(None)))["logits"]
        noise = np.random.default_rng(1).standard_normal(scores.shape)
        held = replace(held, labels=(scores + scores.std() * noise).astype(np.float32))
    rows = np.sort(np.random.default_rng(2).permutation(150)[:41])
    of_all, of_part = accuracy_of_part(proto, held, rows, threads=2)
    assert of_all == accuracy(proto, held)
    alone = accuracy(proto, held.subset(rows))
    assert (of_part.metric, of_part.samples) == (alone.metric, 41)
    assert of_part.value == pytest.approx(alone.value, rel=1e-5)
    assert of_part.value != of_all.value


def test_a_fixed_batch_is_fed_one_by_one() -> None:
    proto, held = channels_last(), split(5, 8, 8, 3)
    assert proto.graph.input[0].type.tensor_type.shape.dim[0].dim_value == 1
    score = outputs(proto, held)["logits"]
    active = session(proto)
    expected = np.concatenate([run(active, held.batch(slice(i, i + 1)))["logits"] for i in range(5)])
    np.testing.assert_array_equal(score, expected)


def test_a_fixed_batch_of_several_is_filled_up() -> None:
    b = Builder()
    b.head(b.conv("image", 3, 8), 8)
    proto = b.model({"image": (4, 3, 8, 8)}, {"logits": (4, 10)})
    held = split(6, 3, 8, 8)
    score = outputs(proto, held)["logits"]
    assert score.shape == (6, 10)
    np.testing.assert_array_equal(score[:4], run(session(proto), held.batch(slice(0, 4)))["logits"])


def test_a_model_agrees_with_itself() -> None:
    for proto, size in ((plain(), 16), (transposed(), 16)):
        held = split(20, 3, size, size, labelled=False)
        score = accuracy(proto, held, reference=outputs(proto, held))
        assert (score.value, score.metric) == (1.0, "agreement")


def test_agreement_falls_with_the_error() -> None:
    expected = {"mask": np.random.default_rng(0).standard_normal((4, 2, 8, 8)).astype(np.float32)}
    shares = [agreement({"mask": expected["mask"] * (1 - e)}, expected) for e in (0.1, 0.5)]
    assert shares == pytest.approx([0.99, 0.75], abs=0.01)
    assert agreement({"mask": -expected["mask"]}, expected) == 0


def test_what_cannot_be_judged_is_refused() -> None:
    proto: onnx.ModelProto = plain()
    with pytest.raises(NetadaptError, match="original model's outputs"):
        accuracy(proto, split(4, 3, 16, 16, labelled=False))
    with pytest.raises(NetadaptError, match="no samples"):
        accuracy(proto, split(4, 3, 16, 16).subset(slice(0, 0)))


def broken(proto: onnx.ModelProto, value: float, *, axis: int = 0) -> onnx.ModelProto:
    """A copy whose first class (or every class) scores `value`."""
    changed = onnx.ModelProto()
    changed.CopyFrom(proto)
    tensor = next(t for t in changed.graph.initializer if t.name == "fc1.bias")
    bias = numpy_helper.to_array(tensor).copy()
    bias[: len(bias) if axis else 1] = value
    tensor.CopyFrom(numpy_helper.from_array(bias, tensor.name))
    return changed


@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.parametrize("labelled", [True, False])
def test_outputs_that_are_not_finite_are_wrong(value: float, labelled: bool) -> None:
    proto, held = plain(), split(50, 3, 16, 16, labelled=labelled)
    reference = None if labelled else outputs(proto, held)
    assert accuracy(broken(proto, value), held, reference=reference).value == 0
    sick = broken(proto, value)
    assert accuracy(sick, held, reference=outputs(sick, held)).value == 0


def test_a_class_that_is_ruled_out_is_no_error() -> None:
    proto, held = plain(), split(50, 3, 16, 16)
    scores = outputs(proto, held)["logits"]
    expected = float(np.mean(1 + scores[:, 1:].argmax(1) == held.labels))
    assert accuracy(broken(proto, -np.inf), held).value == pytest.approx(expected)
    assert accuracy(broken(proto, -np.inf, axis=1), held).value == 0


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_samples_that_are_not_finite_agree_with_nothing(value: float) -> None:
    expected = np.random.default_rng(0).standard_normal((4, 2, 8, 8)).astype(np.float32)
    half = expected.copy()
    half[:2, 1, 2, 3] = value
    assert agreement({"mask": half}, {"mask": expected}) == pytest.approx(0.5, abs=0.05)
    assert agreement({"mask": half}, {"mask": half}) == pytest.approx(0.5)
    nothing = np.full_like(expected, value)
    assert agreement({"mask": nothing}, {"mask": expected}) == 0
    assert agreement({"mask": nothing}, {"mask": nothing}) == 0
    assert agreement({"mask": nothing}, {"mask": np.ones_like(expected)}) == 0


def test_batches_that_are_computed_side_by_side_come_to_the_same_bits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("netadapt_onnx.data.evaluate._cached_batch_size", lambda split: 4)
    proto, rng = plain(seed=1), np.random.default_rng(0)
    split = Split({"image": rng.normal(size=(27, 3, 16, 16)).astype(np.float32)}, rng.integers(0, 10, 27))
    (alone,), (three,) = outputs(proto, split).values(), outputs(proto, split, threads=3).values()
    np.testing.assert_array_equal(alone, three)
    assert accuracy(proto, split, threads=3) == accuracy(proto, split)
