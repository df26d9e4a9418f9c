"""What an executor is: it runs a list of jobs somewhere and returns their outcomes in the order of the list.

A job is `work(worker, *values, request)`: a function, values that many jobs share, and a request that is JSON. Nothing
else reaches it, so it can run in any process on any machine; its files come back as bytes.
"""

from __future__ import annotations

import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from threading import Event
from types import TracebackType
from typing import Any, Protocol, Self
from uuid import uuid4

from netadapt_onnx.common.child_process import packed
from netadapt_onnx.errors import one_line

Request = Mapping[str, Any]
# A job that failed because of the machine, not of its work, is done again so many times.
RETRIES = 2


class JobAbandoned(Exception):
    """Raised inside a job that nobody waits for any more."""


@dataclass(frozen=True)
class WorkerInfo:
    """Where a job runs: how many threads it may use (None: any number), and whether anybody still waits for it."""

    threads: int | None = 1
    abandoned: Event = field(default_factory=Event)

    def check(self) -> None:
        """Raise JobAbandoned if nobody waits for this job any more; long jobs call it now and then."""
        if self.abandoned.is_set():
            raise JobAbandoned


@dataclass(frozen=True)
class JobResult:
    """What a job returns: a result that is JSON, and files by name."""

    result: Mapping[str, Any]
    files: Mapping[str, bytes] = field(default_factory=dict)


@dataclass(frozen=True)
class JobFailure:
    """Why a job failed.

    Attributes:
        reason: The reason in one line.
        log: Everything that was logged of it.
        machine: Whether the machine failed, not the work, so that the job is worth another try.
        error: What to raise if no try helps; without it the job alone has failed.
    """

    reason: str
    log: str
    machine: bool = False
    error: Exception | None = None


Outcome = JobResult | JobFailure
Work = Callable[..., JobResult]
OnOutcome = Callable[[int, Outcome], None]


@dataclass(frozen=True, eq=False)
class Shared:
    """A value that many jobs take. Workers get it once and keep it under its key as long as jobs take it."""

    value: Any
    key: str = field(default_factory=lambda: uuid4().hex)

    @cached_property
    def packed(self) -> bytes:
        """The value as bytes, functions that no module holds included."""
        return packed(self.value)


class Executor(Protocol):
    """Runs jobs, from the beginning of its `with` block until the end, which ends its workers.

    One whose workers have a GPU each has an attribute `gpus` that is true; workers of others train on the processor.
    """

    @property
    def apart(self) -> bool:
        """Whether jobs run in other processes than ours."""
        ...

    def run(
        self,
        work: Work,
        shared: Sequence[Shared],
        requests: Sequence[Request],
        on_outcome: OnOutcome,
        *,
        threaded: bool = False,
    ) -> list[Outcome]:
        """Do a list of jobs.

        Args:
            work: The function that does one of them.
            shared: The values that all of them take.
            requests: Their requests.
            on_outcome: Called in this thread with the number and the outcome of each job, as it ends.
            threaded: Whether the work spreads over threads by itself where it may.

        Returns:
            The outcome of each request, in order.

        Raises:
            OSError: The machine is to blame (a full disk), and it has happened too often.
            KeyboardInterrupt: On Ctrl-C, without leaving work behind.
        """
        ...

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...


def perform(work: Work, worker: WorkerInfo, values: Sequence[Any], request: Request) -> Outcome:
    """Do one job now; whatever it raises becomes its outcome."""
    try:
        return work(worker, *values, request)
    except (OSError, MemoryError) as error:
        return JobFailure(one_line(error), traceback.format_exc(), machine=True, error=error)
    except Exception as error:  # whatever a job dies of is that proposal's failure, not the run's
        return JobFailure(one_line(error), traceback.format_exc())
