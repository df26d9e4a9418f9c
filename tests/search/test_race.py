"""The better of two models: a share of the samples decides where it can, and all of them where it cannot."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import onnx
import pytest

import models
from netadapt_onnx.data.dataset import Dataset, Split
from netadapt_onnx.data.evaluate import outputs
from netadapt_onnx.data.metrics import top_class
from netadapt_onnx.search.evaluator import RANKING_SAMPLES, DataEvaluator
from netadapt_onnx.search.race import SHARES, better, is_decided
from netadapt_onnx.surgery.resize import resize
from tracing import trace_model

ORIGINAL = models.plain()
TWIN = onnx.ModelProto.FromString(ORIGINAL.SerializeToString())


def narrowed(channels: int) -> onnx.ModelProto:
    """The original with so many channels less in its first group."""
    traced = trace_model(ORIGINAL)
    group = traced.prunable[0]
    return resize(traced, {group.name: np.arange(group.channels - channels)})


def evaluator_of(count: int, *, labelled: bool) -> DataEvaluator:
    """On samples that the original gets right, if they are labelled."""
    x = np.random.default_rng(0).standard_normal((count, 3, 16, 16)).astype(np.float32)
    unlabelled = Split({"image": x})
    labels = top_class(outputs(ORIGINAL, unlabelled)["logits"], 1) if labelled else None
    return DataEvaluator(Dataset(unlabelled, Split({"image": x}, labels)), ORIGINAL)


@pytest.fixture
def looked_at(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many samples were looked at, for each evaluation."""
    counts: list[int] = []
    scores, accuracy = DataEvaluator.ranking_scores, DataEvaluator.ranking_accuracy

    def ranking_scores(self: DataEvaluator, proto: onnx.ModelProto, count: int) -> np.ndarray | None:
        counts.append(count)
        return scores(self, proto, count)

    def ranking_accuracy(self: DataEvaluator, proto: onnx.ModelProto) -> float:
        counts.append(len(self.ranking))
        return accuracy(self, proto)

    monkeypatch.setattr(DataEvaluator, "ranking_scores", ranking_scores)
    monkeypatch.setattr(DataEvaluator, "ranking_accuracy", ranking_accuracy)
    return counts


@pytest.mark.parametrize("labelled", [True, False], ids=["accuracy", "fidelity"])
@pytest.mark.parametrize("order", [1, -1])
def test_the_first_share_decides_between_models_that_are_far_apart(
    labelled: bool, order: int, looked_at: list[int]
) -> None:
    evaluator, ruined = evaluator_of(RANKING_SAMPLES, labelled=labelled), narrowed(7)
    model = better(*(ORIGINAL, ruined)[::order], evaluator)
    assert model.proto is ORIGINAL
    assert model.accuracy is None
    assert looked_at == [SHARES[0]] * 2


@pytest.mark.parametrize("labelled", [True, False], ids=["accuracy", "fidelity"])
def test_all_samples_decide_between_models_that_are_alike(labelled: bool, looked_at: list[int]) -> None:
    model = better(ORIGINAL, TWIN, evaluator_of(RANKING_SAMPLES, labelled=labelled))
    assert model.proto is ORIGINAL  # the first, if equal
    assert model.accuracy == pytest.approx(1.0, abs=1e-9)
    assert looked_at == [SHARES[0]] * 2 + [SHARES[1]] * 2 + [RANKING_SAMPLES] * 2


@pytest.mark.parametrize(("count", "shares"), [(100, []), (300, [64, 64])])
def test_few_samples_are_all_looked_at_at_once(count: int, shares: list[int], looked_at: list[int]) -> None:
    better(ORIGINAL, TWIN, evaluator_of(count, labelled=False))
    assert looked_at == [*shares, count, count]


def test_all_samples_decide_by_a_metric_that_is_no_mean(looked_at: list[int]) -> None:
    x = np.random.default_rng(0).standard_normal((RANKING_SAMPLES, 3, 16, 16)).astype(np.float32)
    values: Mapping[str, np.ndarray] = outputs(ORIGINAL, Split({"image": x}))
    data = Dataset(Split({"image": x}), Split({"image": x}, dict(values)))
    model = better(narrowed(1), ORIGINAL, DataEvaluator(data, ORIGINAL))
    assert model.proto is ORIGINAL
    assert looked_at == [SHARES[0]] * 2 + [RANKING_SAMPLES] * 2


@pytest.mark.parametrize(("right", "decides"), [(5, False), (6, True)])
def test_few_samples_that_differ_decide_as_the_sign_test_does(right: int, decides: bool) -> None:
    differences = np.zeros(64)
    differences[:right] = 1
    assert is_decided(differences) == decides
    assert is_decided(-differences) == decides


def test_equal_scores_decide_nothing() -> None:
    assert not is_decided(np.zeros(64))


def test_models_that_are_equally_good_are_seldom_told_apart() -> None:
    rng = np.random.default_rng(0)
    races = [is_decided(rng.choice([-1.0, 0.0, 1.0], 64, p=[0.05, 0.9, 0.05])) for _ in range(2000)]
    assert np.mean(races) <= 0.05
