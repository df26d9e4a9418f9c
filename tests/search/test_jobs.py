"""Jobs in their directories: what requests are as JSON, and jobs done once, or again where the machine is to blame."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import msgspec
import pytest

from netadapt_onnx.search.executors.in_process import InProcess
from netadapt_onnx.search.executors.protocol import JobResult, Shared, WorkerInfo
from netadapt_onnx.search.jobs import EvaluationRequest, Job, ProposalResult, ShortTraining, run_jobs
from netadapt_onnx.training.settings import Settings


def done(folder: Path, request: Mapping[str, Any], work: Callable[[Mapping[str, Any]], JobResult]) -> dict[str, Any]:
    """The result of one job."""
    with InProcess(1, 60.0) as executor:
        (result,) = run_jobs(executor, lambda worker, request: work(request), (), [Job(folder, request)])
    return result


def test_a_finished_job_is_not_done_again_unless_asked_for_something_else(tmp_path: Path) -> None:
    calls = []

    def work(request: Mapping[str, Any]) -> JobResult:
        calls.append(request["channels"])
        return JobResult({"accuracy": request["channels"] / 10})

    for channels in (8, 8, 4):
        assert done(tmp_path / "job", {"channels": channels}, work) == {"accuracy": channels / 10}
    assert calls == [8, 4]


def test_a_job_killed_on_the_way_is_done_again(tmp_path: Path) -> None:
    (tmp_path / "request.json").write_text('{"channels": 8}')
    (tmp_path / ".result.json.123.tmp").write_text('{"accur')
    assert done(tmp_path, {"channels": 8}, lambda _: JobResult({"accuracy": 1.0})) == {"accuracy": 1.0}


@pytest.mark.parametrize("name", ["request.json", "result.json", "model.onnx"])
def test_a_job_whose_files_were_changed_is_done_again(name: str, tmp_path: Path) -> None:
    calls = []

    def work(request: Mapping[str, Any]) -> JobResult:
        calls.append(request)
        return JobResult({"accuracy": 0.25}, {"model.onnx": b"5"})

    done(tmp_path, {"channels": 5}, work)
    before = (tmp_path / name).read_bytes()
    for data in (before.replace(b"5", b"6", 1), b"", b"[]", b"\xff"):
        (tmp_path / name).write_bytes(data)
        assert done(tmp_path, {"channels": 5}, work) == {"accuracy": 0.25}
        assert (tmp_path / name).read_bytes() == before
    assert len(calls) == 5
    (tmp_path / "model.onnx").unlink()  # used up
    done(tmp_path, {"channels": 5}, work)
    assert len(calls) == 5


def test_a_crashing_job_is_one_failure_with_its_log(tmp_path: Path) -> None:
    def work(_: Mapping[str, Any]) -> JobResult:
        raise ZeroDivisionError("who divided by zero")

    assert done(tmp_path, {}, work) == {"error": "who divided by zero"}
    assert "ZeroDivisionError" in (tmp_path / "error.txt").read_text()
    assert done(tmp_path, {}, lambda _: JobResult({"accuracy": 1.0})) == {"error": "who divided by zero"}


def test_a_full_disk_is_not_the_proposals_fault(tmp_path: Path) -> None:
    def work(_: Mapping[str, Any]) -> JobResult:
        raise OSError("No space left on device")

    with pytest.raises(OSError, match="No space"):
        done(tmp_path, {}, work)
    assert done(tmp_path, {}, lambda _: JobResult({"accuracy": 1.0})) == {"accuracy": 1.0}


def test_files_are_there_before_the_result_is(tmp_path: Path) -> None:
    assert done(tmp_path / "job", {}, lambda _: JobResult({"accuracy": 1.0}, {"model.onnx": b"weights"})) == {
        "accuracy": 1.0
    }
    files = {p.name: p.stat().st_mtime_ns for p in (tmp_path / "job").iterdir()}
    assert files.keys() == {"request.json", "model.onnx", "result.json"}
    assert files["request.json"] <= files["model.onnx"] <= files["result.json"]
    assert (tmp_path / "job" / "model.onnx").read_bytes() == b"weights"


def test_the_same_job_twice_is_harmless(tmp_path: Path) -> None:
    def work(worker: WorkerInfo, factor: int, request: Mapping[str, Any]) -> JobResult:
        return JobResult({"value": factor * request["x"]}, {"f": b"abc"})

    jobs = [Job(tmp_path / "same", {"x": 2}), Job(tmp_path / "same", {"x": 2}), Job(tmp_path / "other", {"x": 3})]
    seen: list[int] = []
    with InProcess(2, 60.0) as executor:
        results = run_jobs(executor, work, [Shared(10)], jobs, seen.append)
    assert results == [{"value": 20}, {"value": 20}, {"value": 30}]
    assert seen == [1, 2, 3]


def test_jobs_that_depend_on_the_same_are_done_once_and_all_leave_their_results(tmp_path: Path) -> None:
    done: list[int] = []

    def work(worker: WorkerInfo, request: Mapping[str, Any]) -> JobResult:
        done.append(request["x"])
        return JobResult({"accuracy": 0.5})

    earlier: dict[str, dict[str, Any]] = {}
    with InProcess(1, 60.0) as executor:
        for x, depends_on in enumerate(("this", "that", "this", None, None)):
            job = Job(tmp_path / f"{x}", {"x": x}, depends_on)
            assert run_jobs(executor, work, (), [job], earlier=earlier) == [{"accuracy": 0.5}]
            # A run that is resumed finds the result in the job's own folder.
            assert run_jobs(executor, work, (), [Job(tmp_path / f"{x}", {"x": x})]) == [{"accuracy": 0.5}]
    assert done == [0, 1, 3, 4]


def test_a_failure_is_not_taken_over_from_another_job(tmp_path: Path) -> None:
    done: list[int] = []

    def work(worker: WorkerInfo, request: Mapping[str, Any]) -> JobResult:
        done.append(request["x"])
        raise ValueError("not today")

    earlier: dict[str, dict[str, Any]] = {}
    with InProcess(1, 60.0) as executor:
        for x in range(2):
            (result,) = run_jobs(executor, work, (), [Job(tmp_path / f"{x}", {"x": x}, "this")], earlier=earlier)
            assert "not today" in result["error"]
    assert done == [0, 1]


def test_results_depend_on_neither_iteration_nor_group_where_the_original_is_cut_and_nothing_trained() -> None:
    first = EvaluationRequest(1, "conv1", 2, "original", [], {"conv1": [0, 1]}, reconstruct=True, in_order=True)
    again = msgspec.structs.replace(first, iteration=2, group="curves, draw 3", channels=7)
    assert first.depends_on is not None
    assert first.depends_on == again.depends_on
    others = {"keep": {"conv1": [0, 2]}, "removed": ["add1"], "in_order": False, "measure": "fidelity"}
    for name, value in others.items():
        assert msgspec.structs.replace(first, **{name: value}).depends_on != first.depends_on
    assert msgspec.structs.replace(first, base="current").depends_on is None
    assert msgspec.structs.replace(first, training=ShortTraining(2, 0.02, Settings())).depends_on is None


KEYS = ["iteration", "group", "channels", "base", "removed", "keep", "mend", "training", "want", "in_order", "measure"]


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
from netadapt_onnx.search import jobs

sys.setswitchinterval(1e-6)
request = {"iteration": 1, "group": "a", "channels": 2, "base": "current", "removed": [], "keep": {"a": [0]}}
request["mend"] = True
for _ in range(300):
    importlib.reload(jobs)
    barrier = threading.Barrier(8)

    def read():
        barrier.wait()
        msgspec.convert(request, jobs.EvaluationRequest)

    threads = [threading.Thread(target=read) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
"""


def test_threads_may_read_their_first_requests_at_the_same_time() -> None:
    done = subprocess.run([sys.executable, "-c", THREADS], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
