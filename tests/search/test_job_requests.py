"""Requests of jobs: what they are as JSON, which folders keep and executors send."""

from __future__ import annotations

import msgspec

from netadapt_onnx.search.job_requests import EvaluationRequest, ProposalResult, ShortTraining
from netadapt_onnx.training.settings import Settings

KEYS = ["iteration", "group", "channels", "base", "removed", "keep", "mend", "training", "want"]


def test_a_request_has_the_keys_of_request_json_in_their_order() -> None:
    training = ShortTraining(2, 0.02, Settings())
    for request in (
        EvaluationRequest(1, "conv1", 2, "current", [], {"conv1": [0, 1]}, reconstruct=True),
        EvaluationRequest(3, "conv2", 0, "original", ["add1"], {}, reconstruct=False, training=training),
    ):
        plain = msgspec.to_builtins(request)
        assert list(plain) == KEYS
        assert msgspec.convert(plain, EvaluationRequest) == request


def test_a_result_is_an_accuracy_or_the_reason_of_a_failure() -> None:
    assert msgspec.convert({"accuracy": 0.5}, ProposalResult) == ProposalResult(accuracy=0.5)
    assert msgspec.convert({"accuracy": None}, ProposalResult).accuracy is None  # NaN, as JSON has it
    assert msgspec.convert({"error": "no memory"}, ProposalResult).error == "no memory"
