"""Jobs in their directories: done once, failed once, and what the machine is to blame for done again."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from netadapt_onnx.search.executors.in_process import InProcess
from netadapt_onnx.search.executors.protocol import JobResult, Shared, WorkerInfo
from netadapt_onnx.search.jobs import Job, run_jobs


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
