"""What an executor is: it runs a list of jobs somewhere and returns their outcomes in the order of the list.

A job is `work(here, *values, request)`: a function, values that many jobs share, and a request that is JSON. Nothing
else reaches it, so it can run in any process on any machine; what it makes comes back as bytes.
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
# A job that the machine failed, not its work, is done again so many times.
RETRIES = 2


class GivenUp(Exception):
    """Raised inside a job that nobody waits for any more."""


@dataclass(frozen=True)
class WorkerInfo:
    """Where a job runs: how many threads it may use (None: as many as it likes), and whether anybody still waits."""

    threads: int | None = 1
    given_up: Event = field(default_factory=Event)

    def check(self) -> None:
        """Raise GivenUp if nobody waits for this job any more; long jobs ask now and then."""
        if self.given_up.is_set():
            raise GivenUp


@dataclass(frozen=True)
class Made:
    """What a job made: a result that is JSON, and files by name."""

    result: Mapping[str, Any]
    files: Mapping[str, bytes] = field(default_factory=dict)


@dataclass(frozen=True)
class Failed:
    """Why a job made nothing: in one line, and all that is known.

    `machine`: it was not the work's fault, so it is worth another try. `error`: what to raise if no try helps; without
    it the job alone has failed.
    """

    reason: str
    log: str
    machine: bool = False
    error: Exception | None = None


Outcome = Made | Failed
Work = Callable[..., Made]
Finished = Callable[[int, Outcome], None]


@dataclass(frozen=True, eq=False)
class Shared:
    """A value that many jobs take. Workers get it once and keep it under its key as long as jobs name it."""

    value: Any
    key: str = field(default_factory=lambda: uuid4().hex)

    @cached_property
    def packed(self) -> bytes:
        """The value as bytes, functions that no module holds included."""
        return packed(self.value)


class Executor(Protocol):
    """Runs jobs. Use it in a `with`: leaving ends its workers. `apart`: jobs run in other processes than ours.

    One whose workers have a GPU each has an attribute `gpus` that is true; workers of others train on the processor.
    """

    @property
    def apart(self) -> bool: ...  # noqa: D102

    def run(
        self,
        work: Work,
        shared: Sequence[Shared],
        requests: Sequence[Request],
        finished: Finished,
        *,
        threaded: bool = False,
    ) -> list[Outcome]:
        """The outcome of each request, in order; `finished(number, outcome)` is called here as each arrives.

        `threaded`: the work spreads over threads by itself where it is allowed to. Raises what the machine is to blame
        for (a full disk) once it has happened too often, and KeyboardInterrupt without leaving work behind.
        """
        ...

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...


def perform(work: Work, here: WorkerInfo, values: Sequence[Any], request: Request) -> Outcome:
    """Do one job now; whatever it raises is its outcome."""
    try:
        return work(here, *values, request)
    except (OSError, MemoryError) as error:
        return Failed(one_line(error), traceback.format_exc(), machine=True, error=error)
    except Exception as error:  # whatever a job dies of is that proposal's failure, not the run's
        return Failed(one_line(error), traceback.format_exc())
