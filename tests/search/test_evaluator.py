"""What is evaluated, and what is known already."""

from __future__ import annotations

import pickle
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import onnx
import pytest

import models
from netadapt_onnx.data import evaluate
from netadapt_onnx.data.dataset import Dataset, Split
from netadapt_onnx.search.evaluator import DataEvaluator, UserEvaluator


def data_evaluator(proto: onnx.ModelProto, samples: int, *, labelled: bool = True) -> DataEvaluator:
    x = np.random.default_rng(0).standard_normal((samples, 3, 16, 16)).astype(np.float32)
    held_out = Split({"image": x}, np.arange(samples) % 10 if labelled else None)
    return DataEvaluator(Dataset(held_out, held_out), proto)


def runs_counted(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The samples of each pass over a split."""
    runs, batches = list[int](), evaluate._output_batches

    def counted(proto: onnx.ModelProto, split: Split, threads: int, compute: Any) -> Any:
        runs.append(len(split))
        return batches(proto, split, threads, compute)

    monkeypatch.setattr(evaluate, "_output_batches", counted)
    return runs


def test_a_model_that_was_read_again_or_has_other_metadata_is_not_evaluated_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    proto, runs = models.plain(), runs_counted(monkeypatch)
    evaluator = data_evaluator(proto, 24)
    accuracy = evaluator.val_accuracy(proto)
    again = onnx.ModelProto.FromString(proto.SerializeToString())
    again.metadata_props.add(key="budget", value="macs=0.5x")
    assert evaluator.val_accuracy(again) == accuracy
    assert len(runs) == 1
    weights = next(tensor for tensor in again.graph.initializer if len(tensor.dims) > 1)
    weights.CopyFrom(onnx.numpy_helper.from_array(-onnx.numpy_helper.to_array(weights), weights.name))
    evaluator.val_accuracy(again)
    assert len(runs) == 2, "other weights are another model"


def test_all_samples_and_those_that_rank_proposals_take_one_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    proto = models.plain()
    evaluator = data_evaluator(proto, 1100)
    expected = evaluator.ranking_accuracy(proto)
    runs = runs_counted(monkeypatch)
    accuracy, ranked = evaluator.held_out(proto)
    assert runs == [1100]
    assert ranked == pytest.approx(expected, abs=1e-9)
    assert accuracy == pytest.approx(evaluate.accuracy(proto, evaluator.dataset.val).value, abs=1e-9)


def test_without_labels_proposals_are_ranked_by_what_they_explain() -> None:
    proto = models.plain()
    evaluator = data_evaluator(proto, 24, labelled=False)
    other = data_evaluator(models.plain(widths=(8, 8)), 24, labelled=False).original
    assert evaluator.held_out(other) == (evaluator.val_accuracy(other), evaluator.fidelity(other))


def test_a_caller_s_function_is_asked_once() -> None:
    asked_about: list[onnx.ModelProto] = []

    def half(proto: onnx.ModelProto) -> float:
        asked_about.append(proto)
        return 0.5

    assert UserEvaluator(half).held_out(models.plain()) == (0.5, 0.5)
    assert len(asked_about) == 1


def test_the_original_is_computed_once_for_jobs_side_by_side(monkeypatch: pytest.MonkeyPatch) -> None:
    proto, runs = models.plain(), runs_counted(monkeypatch)
    evaluator = data_evaluator(proto, 24, labelled=False)
    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(evaluator.fidelity, [proto] * 4)) == [1.0] * 4
    assert len(runs) == 5


def test_workers_get_an_evaluator_that_remembers_nothing() -> None:
    proto = models.plain()
    evaluator = data_evaluator(proto, 24)
    expected = evaluator.held_out(proto), evaluator.fidelity(proto)
    sent = pickle.loads(pickle.dumps(evaluator))
    assert not sent._last and not sent._references
    assert (sent.held_out(proto), sent.fidelity(proto)) == expected
