"""What a worker's context makes of requests."""

from __future__ import annotations

from typing import Literal

import msgspec
import numpy as np
import onnx
import pytest

import models
from netadapt_onnx.data.dataset import Dataset, Split
from netadapt_onnx.search.channel_selection import BaseModel
from netadapt_onnx.search.evaluator import DataEvaluator
from netadapt_onnx.search.executors.protocol import WorkerInfo
from netadapt_onnx.search.jobs import EvaluationRequest
from netadapt_onnx.search.worker import WorkerContext, evaluate_proposal
from netadapt_onnx.surgery.residual_branches import find_branches
from netadapt_onnx.surgery.resize import resize
from tracing import trace_model


def context_of(original: BaseModel) -> WorkerContext:
    """Of a run with 32 calibration samples and 8 that rank proposals."""
    size = original.trace.folded.specs["image"][0][1:]
    x = np.random.default_rng(0).standard_normal((40, *size)).astype(np.float32)
    data = Dataset(Split({"image": x[:32]}), Split({"image": x[32:]}))
    evaluator = DataEvaluator(data, original.trace.folded.proto)
    return WorkerContext(original, evaluator, data, seed=0, trains=False, shapes={}, batch_size=1)


@pytest.mark.parametrize("prefers_solved", [True, False])
def test_layers_behind_a_removed_branch_are_solved_where_the_ranking_samples_prefer_it(
    prefers_solved: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = BaseModel(trace_model(models.resnet()), {})
    context = context_of(original)
    branch = find_branches(original.trace)[0].name
    untouched = resize(original.without([branch]).trace, {}).SerializeToString()

    def preference(evaluator: DataEvaluator, proto: onnx.ModelProto) -> float:
        return float((proto.SerializeToString() != untouched) == prefers_solved)

    monkeypatch.setattr(DataEvaluator, "ranking_accuracy", preference)
    assert (context.solve({}, [branch]).proto.SerializeToString() != untouched) == prefers_solved


@pytest.mark.parametrize("measure", ["accuracy", "fidelity"])
def test_a_removed_branch_is_evaluated_once_for_each_way_of_solving(
    monkeypatch: pytest.MonkeyPatch, measure: Literal["accuracy", "fidelity"]
) -> None:
    """Without labels what ranks models is their fidelity, which probes ask for."""
    original = BaseModel(trace_model(models.resnet()), {})
    context, accuracies = context_of(original), list[float]()
    accuracy_of = DataEvaluator.fidelity

    def fidelity(evaluator: DataEvaluator, proto: onnx.ModelProto, prefixes: object = None) -> float:
        accuracies.append(accuracy_of(evaluator, proto))
        return accuracies[-1]

    monkeypatch.setattr(DataEvaluator, "fidelity", fidelity)
    branch = find_branches(original.trace)[0].name
    request = EvaluationRequest(1, branch, 0, "current", [branch], {}, reconstruct=True, measure=measure)
    result = evaluate_proposal(WorkerInfo(), context, original, msgspec.to_builtins(request)).result
    assert len(accuracies) == 2
    assert accuracies[0] != accuracies[1]
    assert result == {"accuracy": max(accuracies)}
