"""Proposals as jobs: a directory with its request, whose result file is renamed into place when it is done."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from netadapt_onnx.common.files import digest, write_atomically
from netadapt_onnx.common.json_output import UNREADABLE, json_bytes, write_json
from netadapt_onnx.search.executors.protocol import Executor, Failed, Outcome, Shared, Work

REQUEST, RESULT, LOG = "request.json", "result.json", "error.txt"
# Beside a result, digests of it with its request, and of the files that were made.
CHECK = "sha256"


@dataclass(frozen=True)
class Job:
    """A request and the directory that keeps it, its result and the files it makes."""

    folder: Path
    request: Mapping[str, Any]


def run_jobs(
    executor: Executor,
    work: Work,
    shared: Sequence[Shared],
    jobs: Sequence[Job],
    progress: Callable[[int], None] = lambda done: None,
    *,
    threaded: bool = False,
) -> list[dict[str, Any]]:
    """The results of all jobs in order, done now unless they were done before for the same request.

    A job that fails is done too: its result is `{"error": reason}`, with all that is known in `error.txt`. Only what
    the machine is to blame for (a full disk) is raised: the job is done again another time. `progress` gets the number
    of jobs that are done.
    """
    results = [_finished(job) for job in jobs]
    todo = [number for number, result in enumerate(results) if result is None]
    for number in todo:
        job = jobs[number]
        job.folder.mkdir(parents=True, exist_ok=True)
        forget(job.folder)
        write_json(job.folder / REQUEST, _plain(job.request))

    def finished(number: int, outcome: Outcome) -> None:
        results[todo[number]] = _keep(jobs[todo[number]].folder, outcome)
        progress(sum(result is not None for result in results))

    executor.run(work, shared, [jobs[number].request for number in todo], finished, threaded=threaded)
    return [result for result in results if result is not None]


def forget(folder: Path) -> None:
    """Let a job be done again, whatever came of it."""
    (folder / RESULT).unlink(missing_ok=True)


def read_request(folder: Path) -> dict[str, Any] | None:
    """What the job in a folder was asked for; None where that is not readable."""
    return _read(folder / REQUEST)


def _keep(folder: Path, outcome: Outcome) -> dict[str, Any]:
    """Write an outcome down, the result last; it is returned as it will be read."""
    result: dict[str, Any]
    files: Mapping[str, bytes]
    if isinstance(outcome, Failed):
        write_atomically(folder / LOG, outcome.log.encode(errors="replace"))
        result, files = {"error": outcome.reason}, {}
    else:
        for name, data in outcome.files.items():
            write_atomically(folder / name, data)
        result, files = _plain(outcome.result), outcome.files
    check = {name: digest(folder / name) for name in files} | {RESULT: _digest(read_request(folder), result)}
    write_json(folder / RESULT, result | {CHECK: check})
    return result


def _finished(job: Job) -> dict[str, Any] | None:
    """What came of a job; None if it is to be done: not done yet, done for another request, or changed since."""
    result = _read(job.folder / RESULT) or {}
    check, request = result.pop(CHECK, None), _plain(job.request)
    if not isinstance(check, dict) or check.pop(RESULT, None) != _digest(request, result):
        return None
    files = {job.folder / name: expected for name, expected in check.items()}
    changed = any(file.exists() and digest(file) != expected for file, expected in files.items())  # used up ones go
    return None if changed or read_request(job.folder) != request else result


def _digest(request: Mapping[str, Any] | None, result: Mapping[str, Any]) -> str:
    return hashlib.sha256(json_bytes([request, result])).hexdigest()


def _plain(value: Mapping[str, Any]) -> dict[str, Any]:
    return msgspec.json.decode(json_bytes(value), type=dict[str, Any])


def _read(path: Path) -> dict[str, Any] | None:
    try:
        return msgspec.json.decode(path.read_bytes(), type=dict[str, Any])
    except (OSError, *UNREADABLE):
        return None
