"""Jobs in worker processes of this machine, one thread each, one GPU each where GPUs are given.

A process per slot and a pipe to it, not a pool: when a worker dies it is known which job it died of, one that takes too
long can be killed alone, and every worker has its own environment, in which it sees the GPU it was given and no other.
"""

from __future__ import annotations

import os
import pickle
import signal
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from multiprocessing.connection import Connection
from pathlib import Path
from tempfile import TemporaryDirectory
from types import TracebackType
from typing import Any

from netadapt_onnx.search.executors.dispatch import Dispatcher
from netadapt_onnx.search.executors.protocol import Failed, Finished, Outcome, Request, Shared, Work, packed
from netadapt_onnx.search.executors.worker import serve

ONE_THREAD = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
GPU_VARIABLE = "CUDA_VISIBLE_DEVICES"
_END_S = 5.0
_LOG_CHARACTERS = 4000


class _Worker:
    """A slot: a process and our end of its pipe. It starts with its first job."""

    def __init__(self, environment: Mapping[str, str], log: Path) -> None:
        self._environment = dict(environment)
        self._log = log
        self._process: Any = None
        self._pipe: Connection | None = None
        self._has: set[str] = set()

    def do(self, work: Work, shared: Sequence[Shared], request: Request, began: Callable[[], None]) -> Outcome:
        news = {one.key: one.packed for one in shared if one.key not in self._has}
        message = packed((work, [one.key for one in shared], news, request))
        if self._process is None:
            self._start()
        assert self._pipe is not None
        try:
            self._pipe.send_bytes(message)
            self._pipe.recv_bytes()
            began()
            answer: Outcome = pickle.loads(self._pipe.recv_bytes())
        except (EOFError, OSError):
            return self._died()
        self._has = {one.key for one in shared}
        return answer

    def abandon(self) -> None:
        process = self._process
        if process is None:
            return
        with suppress(OSError):
            if sys.platform == "win32":
                process.terminate()  # there it is a kill
            else:
                os.kill(process.pid, signal.SIGKILL)
        process.join(_END_S)

    def _start(self) -> None:
        # loky's processes neither fork nor import the caller's script, and take an environment of their own.
        from loky.backend import get_context

        context = get_context("loky")
        self._pipe, theirs = context.Pipe()
        self._process = context.Process(target=serve, args=(theirs, str(self._log)), env=self._environment, daemon=True)
        self._process.start()
        theirs.close()
        self._has = set()

    def _died(self) -> Failed:
        """What a dead worker leaves. Its next job starts another one."""
        assert self._pipe is not None
        process, self._process = self._process, None
        self._pipe.close()
        process.join(_END_S)
        code = process.exitcode
        how = f"of {signal.Signals(-code).name}" if code is not None and code < 0 else f"with exit code {code}"
        said = self._log.read_text(errors="replace")[-_LOG_CHARACTERS:] if self._log.exists() else ""
        # Nobody but the kernel, short of memory, kills a worker with SIGKILL; other deaths are the job's own.
        machine = code is not None and -code == getattr(signal, "SIGKILL", 9)
        return Failed(f"its worker died {how}", f"the worker process died {how}\n{said}", machine=machine)


class LocalWorkers:
    """`workers` processes; `gpus[i]`, if any are given, is the one that worker i sees."""

    apart = True

    def __init__(self, workers: int, timeout_s: float, gpus: Sequence[str] = ()) -> None:
        self._workers = workers
        self._gpus = tuple(gpus)
        self.gpus = bool(gpus)
        self._folder = TemporaryDirectory(prefix="netadapt-workers-", ignore_cleanup_errors=True)
        self._dispatcher = Dispatcher(self._worker, timeout_s)
        self._made = 0

    def _worker(self, place: int) -> _Worker:
        self._made += 1  # a worker that was given up may still hold its log
        leased = {GPU_VARIABLE: self._gpus[place]} if self._gpus else {}
        return _Worker({**ONE_THREAD, **leased}, Path(self._folder.name) / f"{self._made}.log")

    def run(
        self,
        work: Work,
        shared: Sequence[Shared],
        requests: Sequence[Request],
        finished: Finished,
        *,
        threaded: bool = False,
    ) -> list[Outcome]:
        """See `Executor`. Workers have one thread each, whatever the work would like."""
        return self._dispatcher.run(work, shared, requests, finished, places=self._workers)

    def __enter__(self) -> LocalWorkers:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._dispatcher.close()
        self._folder.cleanup()
