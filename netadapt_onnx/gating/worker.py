"""The process in which models are read: one job a line on stdin, one answer a line on stdout, until stdin ends.

It has its own memory limit and a limit of processor seconds a job, so that it ends even if its parent does not end it.
"""

from __future__ import annotations

import os
import sys
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO

import msgspec

from netadapt_onnx.errors import NetadaptError
from netadapt_onnx.gating import jobs
from netadapt_onnx.gating.jobs import Failure, Request, Success


def main() -> None:
    """Serve jobs. Arguments: bytes of memory, seconds a job."""
    memory_bytes, seconds = int(sys.argv[1]), float(sys.argv[2])
    answers = _own_stdout()
    _limit_memory(memory_bytes)
    import netadapt_onnx.gating.facts  # noqa: F401 -- what every job needs, while the first is on its way

    for line in sys.stdin.buffer:
        _limit_seconds(seconds)
        answers.write(msgspec.json.encode(_answer(line, memory_bytes)) + b"\n")
        answers.flush()


def _answer(line: bytes, memory_bytes: int) -> Success | Failure:
    try:
        request = msgspec.json.decode(line, type=Request)
        os.chdir(request.folder)
        return Success(msgspec.Raw(msgspec.json.encode(_perform(request.job, memory_bytes))))
    except NetadaptError as error:
        return Failure(error.message, error.hint, error.code)
    except Exception as error:
        if isinstance(error, MemoryError) or "bad_alloc" in str(error) or "bad allocation" in str(error):
            return Failure("it takes more memory than --memory-limit allows", "raise it if you trust it", "too-large")
        return Failure(f"the model cannot be read: {type(error).__name__}: {error}", code="not-onnx")


def _perform(job: jobs.Job, memory_bytes: int) -> object:
    """Do a job in a process that may take so much memory.

    Raises NetadaptError, or whatever a broken model makes libraries raise.
    """
    from netadapt_onnx.gating import facts

    if isinstance(job, jobs.CountJob):
        return facts.read_facts(job.path, job.shapes, job.batch_size, digests=job.digests, largest_bytes=memory_bytes)
    if isinstance(job, jobs.LocateJob):
        return facts.locate(Path(job.path))
    if isinstance(job, jobs.LayersJob):
        return facts.connect_layers(job.path, job.shapes, job.batch_size)
    from netadapt_onnx.gating import run_model

    if isinstance(job, jobs.DeviceJob):
        return run_model.describe_device(job)
    if isinstance(job, jobs.TimeJob):
        return run_model.time_model(job)
    return run_model.predict_latency(job) if isinstance(job, jobs.PredictJob) else run_model.score_model(job)


def _own_stdout() -> BinaryIO:
    """The stream for answers; the output of libraries is discarded."""
    answers = os.fdopen(os.dup(1), "wb")
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 1)
    os.dup2(nowhere, 2)
    return answers


def _limit_memory(limit_bytes: int) -> None:
    with suppress(ImportError, OSError, ValueError):  # Windows has no such limits; macOS does not hold this one
        import resource

        resource.setrlimit(resource.RLIMIT_DATA, (limit_bytes, limit_bytes))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def _limit_seconds(seconds: float) -> None:
    with suppress(ImportError, OSError, ValueError):
        import resource

        used = resource.getrusage(resource.RUSAGE_SELF)
        soft = int(used.ru_utime + used.ru_stime + 4 * seconds) + 10
        resource.setrlimit(resource.RLIMIT_CPU, (soft, resource.RLIM_INFINITY))
