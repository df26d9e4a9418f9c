"""What every executor must do alike; Ray takes part with NETADAPT_RAY=1 (`make test-ray`)."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from interruptible import DEFAULT_SIGINT
from netadapt_onnx.errors import NetadaptError
from netadapt_onnx.search.executors.in_process import InProcess
from netadapt_onnx.search.executors.local import LocalWorkers
from netadapt_onnx.search.executors.opening import opened_executor
from netadapt_onnx.search.executors.protocol import (
    Executor,
    JobFailure,
    JobResult,
    OnOutcome,
    Outcome,
    Shared,
    WorkerInfo,
)

RAY = pytest.param("ray", marks=pytest.mark.skipif("NETADAPT_RAY" not in os.environ, reason="make test-ray"))
TIMEOUT_S = 3.0


@pytest.fixture(params=["local", "local:2", RAY], scope="module")
def executor(request: pytest.FixtureRequest) -> Iterator[Executor]:
    """One for all tests: whatever a job did must not matter to the next one's."""
    with opened_executor(request.param, 2, timeout_s=TIMEOUT_S) as opened:
        yield opened


def ignore(number: int, outcome: Outcome) -> None:
    """Nobody wants to know."""


def run(
    executor: Executor, work: Any, requests: list[dict[str, Any]], *shared: Any, seen: OnOutcome = ignore
) -> list[Any]:
    """Results in order; of a failed job its reason."""
    outcomes = executor.run(work, [Shared(value) for value in shared], requests, seen)
    return [dict(o.result) if isinstance(o, JobResult) else o.reason for o in outcomes]


def scaled(worker: WorkerInfo, factor: float, request: Mapping[str, Any]) -> JobResult:
    time.sleep(request.get("sleep", 0))
    return JobResult({"value": factor * request["x"]}, {"x": str(request["x"]).encode()})


def test_results_come_in_the_order_of_the_jobs_whoever_ends_first(executor: Executor) -> None:
    order: list[int] = []
    requests = [{"x": x, "sleep": 0.4 if x == 0 else 0.0} for x in range(5)]
    results = run(executor, scaled, requests, 10, seen=lambda number, _: order.append(number))
    assert results == [{"value": 10 * x} for x in range(5)]
    assert sorted(order) == list(range(5))
    assert order[0] != 0


def test_no_jobs_are_no_work(executor: Executor) -> None:
    assert run(executor, scaled, [], 1) == []


def test_files_come_back_as_bytes(executor: Executor) -> None:
    (outcome,) = executor.run(scaled, [Shared(1)], [{"x": 7}], ignore)
    assert isinstance(outcome, JobResult)
    assert outcome.files == {"x": b"7"}


def test_functions_that_no_module_holds_can_be_sent(executor: Executor) -> None:
    offset = 3
    results = run(
        executor,
        lambda worker, twice, request: JobResult({"y": twice(request["x"])}),
        [{"x": 1}],
        lambda x: 2 * x + offset,
    )
    assert results == [{"y": 5}]


def test_a_value_that_cannot_be_sent_is_said(executor: Executor) -> None:
    if not executor.apart:
        pytest.skip("nothing is sent")
    with pytest.raises(TypeError, match="pickle"):
        run(executor, scaled, [{"x": 1}], (one for one in ()))
    assert run(executor, scaled, [{"x": 1}], 2) == [{"value": 2}]


def raising(worker: WorkerInfo, request: Mapping[str, Any]) -> JobResult:
    if request["x"] == 1:
        raise ZeroDivisionError("who divided by zero")
    return JobResult({"x": request["x"]})


def test_a_job_that_raises_is_one_failure_with_its_log(executor: Executor) -> None:
    outcomes = executor.run(raising, [], [{"x": x} for x in range(3)], ignore)
    assert [isinstance(o, JobFailure) for o in outcomes] == [False, True, False]
    failed = outcomes[1]
    assert isinstance(failed, JobFailure)
    assert failed.reason == "who divided by zero"
    assert "in raising" in failed.log


def dying(worker: WorkerInfo, request: Mapping[str, Any]) -> JobResult:
    if request["x"] == 1:
        import ctypes

        os.write(2, b"last words")
        ctypes.string_at(0)  # SIGSEGV
    time.sleep(0.1)
    return JobResult({"x": request["x"]})


def test_a_job_that_kills_its_worker_is_one_failure_with_its_log(executor: Executor) -> None:
    if not executor.apart:
        pytest.skip("it would kill this process")
    outcomes = executor.run(dying, [], [{"x": x} for x in range(4)], ignore)
    assert [isinstance(o, JobFailure) for o in outcomes] == [False, True, False, False]
    failed = outcomes[1]
    assert isinstance(failed, JobFailure)
    assert "its worker died" in failed.reason
    if isinstance(executor, LocalWorkers):
        assert "SIGSEGV" in failed.reason
        assert "last words" in failed.log
        assert "Segmentation fault" in failed.log
        assert "in dying" in failed.log


def sleeping(worker: WorkerInfo, request: Mapping[str, Any]) -> JobResult:
    while request["x"] == 1:
        worker.check()
        time.sleep(0.05)
    return JobResult({"x": request["x"]})


def test_a_job_that_never_ends_is_given_up(executor: Executor) -> None:
    began = time.monotonic()
    results = run(executor, sleeping, [{"x": x} for x in range(4)])
    assert results == [{"x": 0}, "not done after 3 s", {"x": 2}, {"x": 3}]
    assert time.monotonic() - began > TIMEOUT_S
    assert run(executor, scaled, [{"x": 1}, {"x": 2}], 2) == [{"value": 2}, {"value": 4}]


def faltering(worker: WorkerInfo, request: Mapping[str, Any]) -> JobResult:
    marks = Path(request["folder"])
    tries = len(list(marks.glob(f"{request['x']}-*")))
    (marks / f"{request['x']}-{tries}").touch()
    if tries < request["failures"]:
        raise OSError(28, "No space left on device")
    return JobResult({"tries": tries + 1})


def test_what_the_machine_is_to_blame_for_is_tried_again(executor: Executor, tmp_path: Path) -> None:
    requests = [{"x": x, "folder": str(tmp_path), "failures": 2 * (x == 1)} for x in range(3)]
    assert run(executor, faltering, requests) == [{"tries": 1}, {"tries": 3}, {"tries": 1}]


def test_a_machine_that_fails_for_good_is_no_proposals_fault(executor: Executor, tmp_path: Path) -> None:
    requests = [{"x": x, "folder": str(tmp_path), "failures": 9 * (x == 1)} for x in range(3)]
    with pytest.raises(OSError, match="No space left") as raised:
        run(executor, faltering, requests)
    assert raised.value.errno == 28
    assert run(executor, scaled, [{"x": 1}], 2) == [{"value": 2}]


def killed_once(worker: WorkerInfo, request: Mapping[str, Any]) -> JobResult:
    mark = Path(request["mark"])
    if not mark.exists():
        mark.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return JobResult({"done": True})


def test_a_worker_that_the_system_killed_is_replaced_and_its_job_done_again(executor: Executor, tmp_path: Path) -> None:
    if not executor.apart:
        pytest.skip("it would kill this process")
    assert run(executor, killed_once, [{"mark": str(tmp_path / "mark")}]) == [{"done": True}]


def test_the_same_job_several_times_is_harmless(executor: Executor) -> None:
    assert run(executor, scaled, [{"x": 2}] * 5, 10) == [{"value": 20}] * 5


def keeping(worker: WorkerInfo, value: list[int], request: Mapping[str, Any]) -> JobResult:
    value.append(1)
    return JobResult({"pid": os.getpid(), "seen": len(value)})


def test_shared_values_are_sent_once_and_dropped_when_no_job_names_them(executor: Executor) -> None:
    shared = Shared([])
    for _ in range(2):
        outcomes = executor.run(keeping, [shared], [{}] * 6, ignore)
    results = [o.result for o in outcomes if isinstance(o, JobResult)]
    workers = {one["pid"] for one in results}
    most = {pid: max(one["seen"] for one in results if one["pid"] == pid) for pid in workers}
    assert sum(most.values()) >= 10, "values are kept from job to job, and from call to call"
    fresh = executor.run(keeping, [Shared([])], [{}], ignore)
    assert [o.result["seen"] for o in fresh if isinstance(o, JobResult)] == [1]


MASTER = """
import os, sys, time
from pathlib import Path
from netadapt_onnx.search.executors.opening import opened_executor
from netadapt_onnx.search.executors.protocol import JobResult

def work(here, request):
    Path(request["mark"]).write_text(str(os.getpid()))
    while True:
        here.check()
        time.sleep(0.05)

marks = [Path(sys.argv[2]) / str(i) for i in range(2)]
with opened_executor(sys.argv[1], 2) as executor:
    executor.run(work, [], [{"mark": str(mark)} for mark in marks], print)
"""


@pytest.fixture(params=["local", "local:2", RAY])
def master(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[subprocess.Popen[str], list[int]]]:
    """A process whose executor is busy with jobs that never end, and who does them."""
    command = [*DEFAULT_SIGINT, sys.executable, "-c", MASTER, request.param, str(tmp_path)]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, start_new_session=True) as process:
        marks = [tmp_path / "0", tmp_path / "1"]
        deadline = time.monotonic() + 60
        while not all(mark.exists() and mark.read_text() for mark in marks) and time.monotonic() < deadline:
            time.sleep(0.05)
        yield process, [int(mark.read_text()) for mark in marks]
        process.kill()


def gone(process: int) -> bool:
    """Whether a process ended (one that nobody waited for yet has ended too)."""
    try:
        return Path(f"/proc/{process}/stat").read_text().rsplit(")", 1)[1].split()[0] == "Z"
    except OSError:
        return True


def wait_until_gone(processes: list[int]) -> bool:
    deadline = time.monotonic() + 20
    while not all(map(gone, processes)) and time.monotonic() < deadline:
        time.sleep(0.05)
    return all(map(gone, processes))


def test_ctrl_c_ends_everything_at_once(master: tuple[subprocess.Popen[str], list[int]]) -> None:
    process, workers = master
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does: the whole group
    _, stderr = process.communicate(timeout=30)
    assert "KeyboardInterrupt" in stderr
    assert wait_until_gone(workers)


def test_workers_end_when_their_master_is_killed(master: tuple[subprocess.Popen[str], list[int]]) -> None:
    process, workers = master
    process.kill()
    process.wait()
    assert wait_until_gone(workers)


def seeing(worker: WorkerInfo, request: Mapping[str, Any]) -> JobResult:
    time.sleep(0.3)
    return JobResult({"gpu": os.environ.get("CUDA_VISIBLE_DEVICES"), "threads": os.environ["OMP_NUM_THREADS"]})


def test_every_gpu_is_given_to_one_worker() -> None:
    with opened_executor("local", 8, gpus="0,2", timeout_s=60) as executor:
        results = run(executor, seeing, [{}] * 4)
    assert sorted(one["gpu"] for one in results) == ["0", "0", "2", "2"]
    assert {one["threads"] for one in results} == {"1"}


@pytest.mark.parametrize(
    ("text", "gpus", "message"),
    [
        ("slurm", None, "--executor slurm: not known"),
        ("local:", None, "--executor local:: not known"),
        ("local:0", None, "N is a number of worker processes"),
        ("local:two", None, "N is a number of worker processes"),
        ("local:3", "0,2", "3 workers cannot have a GPU each of --gpus 0,2"),
        ("local", "0,0", "each GPU once"),
        ("local", "0;2", "not numbers of GPUs"),
        ("local", "", "not numbers of GPUs"),
        ("local", [-1], "not numbers of GPUs"),
    ],
)
def test_what_no_executor_can_be_is_refused(text: str, gpus: Any, message: str) -> None:
    with pytest.raises(NetadaptError, match=message) as raised:
        opened_executor(text, 2, gpus)
    assert raised.value.code == "usage"


def test_the_callers_own_executor_is_used_as_it_is() -> None:
    own = InProcess(1, 60.0)
    assert opened_executor(own, 8) is own
    with pytest.raises(NetadaptError, match="--gpus is for"):
        opened_executor(own, 8, gpus="0")


def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("netadapt_onnx.search.executors.opening.find_spec", lambda name: None)
    for text, hint in (("local:2", r"netadapt-onnx\[adapt\]"), ("ray", r"netadapt-onnx\[ray\]")):
        with pytest.raises(NetadaptError, match=hint):
            opened_executor(text, 2)
