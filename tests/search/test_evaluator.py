"""What is evaluated, and what is known already."""

from __future__ import annotations

import numpy as np
import onnx
import pytest

import models
from netadapt_onnx.data import evaluate
from netadapt_onnx.data.dataset import Dataset, Split
from netadapt_onnx.search.evaluator import DataEvaluator


def test_a_model_that_was_read_again_or_has_other_metadata_is_not_evaluated_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    proto, runs = models.plain(), list[int]()
    x = np.random.default_rng(0).standard_normal((24, 3, 16, 16)).astype(np.float32)
    held_out = Split({"image": x}, np.arange(24) % 10)
    evaluator = DataEvaluator(Dataset(held_out, held_out), proto)
    score = evaluate._score_against_labels

    def counted(model: onnx.ModelProto, split: Split, threads: int, compute: object) -> float:
        runs.append(len(split))
        return score(model, split, threads, None)

    monkeypatch.setattr(evaluate, "_score_against_labels", counted)
    accuracy = evaluator.val_accuracy(proto)
    again = onnx.ModelProto.FromString(proto.SerializeToString())
    again.metadata_props.add(key="budget", value="macs=0.5x")
    assert evaluator.val_accuracy(again) == accuracy
    assert len(runs) == 1
    weights = next(tensor for tensor in again.graph.initializer if len(tensor.dims) > 1)
    weights.CopyFrom(onnx.numpy_helper.from_array(-onnx.numpy_helper.to_array(weights), weights.name))
    evaluator.val_accuracy(again)
    assert len(runs) == 2, "other weights are another model"
