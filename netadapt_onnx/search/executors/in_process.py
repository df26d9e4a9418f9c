"""Jobs in threads of this process: nothing is started or sent, and everything is shared.

A job that crashes the process ends the run with it (`--resume` goes on); `local:N` survives that.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from threading import Event
from types import TracebackType

from netadapt_onnx.search.executors.dispatch import Dispatcher
from netadapt_onnx.search.executors.protocol import OnOutcome, Outcome, Request, Shared, Work, WorkerInfo, perform


class _Thread:
    """A slot whose jobs run in the thread that waits for them."""

    def __init__(self, threads: int | None) -> None:
        self._worker = WorkerInfo(threads, Event())

    def do(self, work: Work, shared: Sequence[Shared], request: Request, on_start: Callable[[], None]) -> Outcome:
        on_start()
        return perform(work, self._worker, [one.value for one in shared], request)

    def abandon(self) -> None:
        self._worker.abandoned.set()


class InProcess:
    """A job per core at a time, in threads; one at a time of those that bring their own threads."""

    apart = False

    def __init__(self, cores: int, timeout_s: float) -> None:
        self._cores = cores
        self._single = Dispatcher(lambda _: _Thread(1), timeout_s)
        self._threaded = Dispatcher(lambda _: _Thread(None), timeout_s)

    def run(
        self,
        work: Work,
        shared: Sequence[Shared],
        requests: Sequence[Request],
        on_outcome: OnOutcome,
        *,
        threaded: bool = False,
    ) -> list[Outcome]:
        """See `Executor`. A job beyond its time is abandoned, and ends where it next checks for that."""
        if threaded:
            return self._threaded.run(work, shared, requests, on_outcome, slots=1)
        return self._single.run(work, shared, requests, on_outcome, slots=self._cores)

    def __enter__(self) -> InProcess:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._single.close()
        self._threaded.close()
