"""Requests of jobs: what they are as JSON, which folders keep and executors send."""

from __future__ import annotations

import subprocess
import sys

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


# Threads that read one request at the same time, just after the module was imported.
THREADS = """
import importlib, sys, threading
import msgspec
from netadapt_onnx.search import job_requests

sys.setswitchinterval(1e-6)
request = {"iteration": 1, "group": "a", "channels": 2, "base": "current", "removed": [], "keep": {"a": [0]}}
request["mend"] = True
for _ in range(300):
    importlib.reload(job_requests)
    barrier = threading.Barrier(8)

    def read():
        barrier.wait()
        msgspec.convert(request, job_requests.EvaluationRequest)

    threads = [threading.Thread(target=read) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
"""


def test_threads_may_read_their_first_requests_at_the_same_time() -> None:
    done = subprocess.run([sys.executable, "-c", THREADS], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
