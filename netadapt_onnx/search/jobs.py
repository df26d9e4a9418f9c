"""Jobs in folders: a folder keeps a job's request, and its result file is renamed into place when it is done.

Requests, a struct for each kind of job, travel as JSON between processes and machines; an `EvaluationRequest` is
`request.json` of a proposal's folder."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import msgspec

from netadapt_onnx.common.files import digest, write_atomically
from netadapt_onnx.common.json_output import UNREADABLE, json_bytes, write_json
from netadapt_onnx.search.executors.protocol import Executor, JobFailure, JobResult, Outcome, Shared, Work
from netadapt_onnx.training.settings import Settings

BaseName = Literal["current", "original"]
Measure = Literal["accuracy", "fidelity"]


@dataclass(frozen=True)
class ShortTraining:
    """A short training: steps of SGD, their learning rate, and how this run trains."""

    steps: int
    lr: float
    settings: Settings


class EvaluationRequest(msgspec.Struct, frozen=True):
    """A proposal to cut, adapt and evaluate.

    Attributes:
        iteration: The iteration that it is a proposal of.
        group: The group that proposes.
        channels: Its channel count.
        base: The model that is cut.
        removed: The branches that are removed first.
        keep: By group, the indices of the channels that stay.
        reconstruct: Whether the layers behind the cut are reconstructed.
        training: The short training after the cut; None: there is none.
        want: What is asked for: the only kind of request that a folder keeps.
        in_order: Whether all layers are solved one after the other, as those of an accepted model are.
        measure: What the result is: the accuracy, or the share of the variance of the original's outputs that the
            model's explain.
    """

    iteration: int
    group: str
    channels: int
    base: BaseName
    removed: list[str]
    keep: dict[str, list[int]]
    reconstruct: bool = msgspec.field(name="mend")
    training: ShortTraining | None = None
    want: Literal["accuracy"] = "accuracy"
    in_order: bool = False
    measure: Measure = "accuracy"

    @property
    def depends_on(self) -> str | None:
        """All that the result depends on where that is neither the current model nor a training, whose model counts."""
        if self.base != "original" or self.training is not None:
            return None
        return repr((self.removed, self.keep, self.reconstruct, self.in_order, self.measure))


class CutRequest(msgspec.Struct, frozen=True):
    """A model to cut, with the fields of an `EvaluationRequest`."""

    base: BaseName
    removed: list[str]
    keep: dict[str, list[int]]
    reconstruct: bool


class SolveRequest(msgspec.Struct, frozen=True):
    """The original to cut to the channels of `keep`, without the branches `removed`, all layers solved in order."""

    keep: dict[str, list[int]]
    removed: list[str]


class ProposalResult(msgspec.Struct, frozen=True):
    """The accuracy of an evaluated proposal, None where it is not a finite number; or why it failed."""

    accuracy: float | None = None
    error: str | None = None


# msgspec reads a type's fields when it is first used, and two threads that do so at once end in a segmentation fault
# (seen with 0.22): jobs of this process run in threads, so the fields are read here.
for _kind in (EvaluationRequest, CutRequest, SolveRequest):
    msgspec.json.Decoder(_kind)


REQUEST, RESULT, LOG = "request.json", "result.json", "error.txt"
# Of a result, digests of it with its request, and of the job's files.
CHECK = "sha256"


@dataclass(frozen=True)
class Job:
    """A request, as JSON has it, and the folder that keeps it, its result and its files.

    `depends_on` is all that the result depends on, where no files come with it; None: it is not taken from other jobs.
    """

    folder: Path
    request: Mapping[str, Any]
    depends_on: str | None = None


def run_jobs(
    executor: Executor,
    work: Work,
    shared: Sequence[Shared],
    jobs: Sequence[Job],
    progress: Callable[[int], None] = lambda done: None,
    *,
    threaded: bool = False,
    earlier: dict[str, dict[str, Any]] | None = None,
) -> list[dict[str, Any]]:
    """Do jobs, unless they were done before for the same request, or others that depend on the same.

    A job that fails is done too: its result is `{"error": reason}`, and its folder has the log in `error.txt`. Only
    what the machine is to blame for (a full disk) is raised: such a job is done again another time.

    Args:
        executor: Runs the jobs.
        work: The function that does one of them.
        shared: The values that all of them take.
        jobs: The jobs.
        progress: Gets the number of jobs that are done, each time that it grows.
        threaded: Whether the work spreads over threads by itself.
        earlier: Results by what they depend on; those of these jobs are added.

    Returns:
        The results of all jobs, in order.
    """
    earlier = {} if earlier is None else earlier
    results = [_finished_result(job) for job in jobs]
    todo = []
    for number, job in enumerate(jobs):
        if results[number] is None:
            job.folder.mkdir(parents=True, exist_ok=True)
            forget(job.folder)
            write_json(job.folder / REQUEST, _plain(job.request))
            if job.depends_on in earlier:
                results[number] = _write_result(job.folder, JobResult(earlier[job.depends_on]))
            else:
                todo.append(number)

    def on_outcome(number: int, outcome: Outcome) -> None:
        results[todo[number]] = _write_result(jobs[todo[number]].folder, outcome)
        progress(sum(result is not None for result in results))

    executor.run(work, shared, [jobs[number].request for number in todo], on_outcome, threaded=threaded)
    done = [result for result in results if result is not None]
    for job, result in zip(jobs, done, strict=True):
        if job.depends_on is not None and "error" not in result:
            earlier[job.depends_on] = result
    return done


def forget(folder: Path) -> None:
    """Let the job in a folder be done again, whatever came of it."""
    (folder / RESULT).unlink(missing_ok=True)


def read_request(folder: Path) -> dict[str, Any] | None:
    """The request of the job in a folder; None where that is not readable."""
    return _read(folder / REQUEST)


def _write_result(folder: Path, outcome: Outcome) -> dict[str, Any]:
    """Write an outcome into a job's folder, the result last; it is returned as it will be read."""
    result: dict[str, Any]
    files: Mapping[str, bytes]
    if isinstance(outcome, JobFailure):
        write_atomically(folder / LOG, outcome.log.encode(errors="replace"))
        result, files = {"error": outcome.reason}, {}
    else:
        for name, data in outcome.files.items():
            write_atomically(folder / name, data)
        result, files = _plain(outcome.result), outcome.files
    check = {name: digest(folder / name) for name in files} | {RESULT: _digest(read_request(folder), result)}
    write_json(folder / RESULT, result | {CHECK: check})
    return result


def _finished_result(job: Job) -> dict[str, Any] | None:
    """The result of a job; None if it is to be done: not done yet, done for another request, or changed since."""
    result = _read(job.folder / RESULT) or {}
    check, request = result.pop(CHECK, None), _plain(job.request)
    if not isinstance(check, dict) or check.pop(RESULT, None) != _digest(request, result):
        return None
    files = {job.folder / name: expected for name, expected in check.items()}
    changed = any(file.exists() and digest(file) != expected for file, expected in files.items())  # some are used up
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
