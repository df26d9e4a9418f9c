"""Jobs in worker processes of this machine, one thread each, one GPU each where the user names GPUs.

There is a process and a pipe for each slot, not a pool: when a worker dies it is clear which job it died of, one that
takes too long can be killed alone, and every worker has its own environment, in which it sees its own GPU and no other.
"""

from __future__ import annotations

import pickle
from collections.abc import Callable, Mapping, Sequence
from multiprocessing.connection import Connection
from pathlib import Path
from tempfile import TemporaryDirectory
from types import TracebackType
from typing import Any

from netadapt_onnx.common.child_process import ONE_THREAD, ChildProcess, messages, packed
from netadapt_onnx.search.executors.dispatch import Dispatcher
from netadapt_onnx.search.executors.protocol import (
    JobFailure,
    OnOutcome,
    Outcome,
    Request,
    Shared,
    Work,
    WorkerInfo,
    perform,
)


def serve(pipe: Connection, log: str) -> None:
    """Do the jobs that arrive, keeping the values they share; what the process prints is appended to the file `log`."""
    arrived = messages(pipe, log)
    values: dict[str, Any] = {}
    while True:
        pipe.send_bytes(packed(_answer(arrived.get(), values, lambda: pipe.send_bytes(b"started"))))


def _answer(message: bytes, values: dict[str, Any], on_start: Callable[[], None]) -> object:
    """The outcome of one job, which first reports that it has started."""
    try:
        work, keys, new_values, request = pickle.loads(message)
        values |= {key: pickle.loads(value) for key, value in new_values.items()}
    except Exception as error:  # a module that only the master has, say
        on_start()
        return JobFailure(f"a worker cannot read its job: {error}", repr(error))
    for key in values.keys() - set(keys):
        del values[key]
    on_start()
    return perform(work, WorkerInfo(threads=1), [values[key] for key in keys], request)


GPU_VARIABLE = "CUDA_VISIBLE_DEVICES"
_LOG_CHARACTERS = 4000


class _Worker:
    """A slot: a process that starts with its first job."""

    def __init__(self, environment: Mapping[str, str], log: Path) -> None:
        self._environment = dict(environment)
        self._log = log
        self._process: ChildProcess | None = None
        self._sent_keys: set[str] = set()

    def do(self, work: Work, shared: Sequence[Shared], request: Request, on_start: Callable[[], None]) -> Outcome:
        new_values = {one.key: one.packed for one in shared if one.key not in self._sent_keys}
        message = packed((work, [one.key for one in shared], new_values, request))
        if self._process is None:
            self._process = ChildProcess(serve, (str(self._log),), self._environment)
            self._sent_keys = set()
        process = self._process
        try:
            process.send(message)
            process.receive()
            on_start()
            answer: Outcome = pickle.loads(process.receive())
        except (EOFError, OSError):
            return self._died(process)
        self._sent_keys = {one.key for one in shared}
        return answer

    def abandon(self) -> None:
        if self._process is not None:
            self._process.kill()

    def _died(self, process: ChildProcess) -> JobFailure:
        """The failure of a job whose worker died. The next job starts another one."""
        self._process = None
        death = process.death()
        log = self._log.read_text(errors="replace")[-_LOG_CHARACTERS:] if self._log.exists() else ""
        # Deaths that are not the kernel's doing are the job's own.
        return JobFailure(
            f"its worker died {death.how}", f"the worker process died {death.how}\n{log}", machine=death.killed
        )


class LocalWorkers:
    """Worker processes, each of which sees one GPU if there are any."""

    apart = True

    def __init__(self, workers: int, timeout_s: float, gpus: Sequence[str] = ()) -> None:
        """Start so many `workers` as they are needed; `gpus[i]`, if there are any, is the GPU that worker i sees."""
        self._workers = workers
        self._gpus = tuple(gpus)
        self.gpus = bool(gpus)
        self._folder = TemporaryDirectory(prefix="netadapt-workers-", ignore_cleanup_errors=True)
        self._dispatcher = Dispatcher(self._worker, timeout_s)
        self._opened = 0

    def _worker(self, slot: int) -> _Worker:
        self._opened += 1  # an abandoned worker may still hold its log
        leased = {GPU_VARIABLE: self._gpus[slot]} if self._gpus else {}
        return _Worker({**ONE_THREAD, **leased}, Path(self._folder.name) / f"{self._opened}.log")

    def run(
        self,
        work: Work,
        shared: Sequence[Shared],
        requests: Sequence[Request],
        on_outcome: OnOutcome,
        *,
        threaded: bool = False,
    ) -> list[Outcome]:
        """See `Executor`. Workers have one thread each, whatever the work would like."""
        return self._dispatcher.run(work, shared, requests, on_outcome, slots=self._workers)

    def __enter__(self) -> LocalWorkers:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._dispatcher.close()
        self._folder.cleanup()
