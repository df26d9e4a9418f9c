"""Jobs onto slots: the one loop behind every executor, with its retries, its time limit and its way out on Ctrl-C."""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from queue import Empty, SimpleQueue
from threading import Thread
from typing import Protocol

from netadapt_onnx.search.executors.protocol import RETRIES, JobFailure, OnOutcome, Outcome, Request, Shared, Work

# How often the loop looks at the clock; also how long Ctrl-C may take where waiting cannot be interrupted.
POLL_S = 0.2
# Threads of abandoned jobs are waited for so long; work that never checks whether it is abandoned is left behind.
JOIN_S = 10.0


class Slot(Protocol):
    """Something that does one job at a time."""

    def do(self, work: Work, shared: Sequence[Shared], request: Request, on_start: Callable[[], None]) -> Outcome:
        """Do a job and wait for it.

        Args:
            work: The function that does it.
            shared: The values that it takes besides its request.
            request: The request.
            on_start: Called when its worker is up and has all it needs.

        Raises:
            Exception: Only what no job is to blame for.
        """
        ...

    def abandon(self) -> None:
        """End, from another thread, whatever it does now; it is not used again."""
        ...


@dataclass(eq=False)
class _Turn:
    """A job on a slot. Its time counts from `started` on: queueing and starting a worker are not its fault."""

    slot_number: int
    job: int
    slot: Slot
    started: float = math.inf
    thread: Thread | None = None


class Dispatcher:
    """Slots that live on between lists of jobs, and are opened again when they were lost."""

    def __init__(self, open_slot: Callable[[int], Slot], timeout_s: float) -> None:
        """Open slots by their number as they are needed; a job that takes longer than `timeout_s` is abandoned."""
        self._open_slot = open_slot
        self._slots: dict[int, Slot] = {}
        self.timeout_s = timeout_s

    def run(
        self, work: Work, shared: Sequence[Shared], requests: Sequence[Request], on_outcome: OnOutcome, *, slots: int
    ) -> list[Outcome]:
        """The outcomes of `requests` in order, at most `slots` of them at work at a time."""
        return _JobList(self, work, shared, requests, on_outcome).run(slots)

    def slot(self, number: int) -> Slot:
        """The slot of a number, opened if need be."""
        if number not in self._slots:
            self._slots[number] = self._open_slot(number)
        return self._slots[number]

    def abandon(self, number: int, slot: Slot) -> None:
        """End what a slot does; the next job of its number gets another one."""
        self._slots.pop(number, None)
        slot.abandon()

    def close(self) -> None:
        """End every slot."""
        while self._slots:
            self._slots.popitem()[1].abandon()


class _JobList:
    """A list of jobs at work."""

    def __init__(
        self,
        dispatcher: Dispatcher,
        work: Work,
        shared: Sequence[Shared],
        requests: Sequence[Request],
        on_outcome: OnOutcome,
    ) -> None:
        self._dispatcher = dispatcher
        self._work = work
        self._shared = shared
        self._requests = requests
        self._on_outcome = on_outcome
        self._todo = deque(range(len(requests)))
        self._tries = [0] * len(requests)
        self._outcomes: dict[int, Outcome] = {}
        self._running: dict[int, _Turn] = {}
        self._answers: SimpleQueue[tuple[_Turn, Outcome | BaseException]] = SimpleQueue()

    def run(self, slots: int) -> list[Outcome]:
        """The outcomes in order. Whatever is raised, no job is at work any more then."""
        try:
            for number in range(min(slots, len(self._requests))):
                self._start(number)
            while self._running:
                self._wait()
        except BaseException:
            self._abandon_all()
            raise
        return [self._outcomes[job] for job in range(len(self._requests))]

    def _start(self, slot_number: int) -> None:
        """Give the next job to a slot, if there is one."""
        if not self._todo:
            return
        turn = _Turn(slot_number, self._todo.popleft(), self._dispatcher.slot(slot_number))
        turn.thread = Thread(target=self._do, args=(turn,), daemon=True)
        self._running[slot_number] = turn
        turn.thread.start()

    def _do(self, turn: _Turn) -> None:
        """Do a job, in a thread of its own."""

        def on_start() -> None:
            turn.started = time.monotonic()

        try:
            outcome = turn.slot.do(self._work, self._shared, self._requests[turn.job], on_start)
            self._answers.put((turn, outcome))
        except BaseException as error:  # raised where everybody waits
            self._answers.put((turn, error))

    def _wait(self) -> None:
        """Settle the next job that ends; or those that take too long, if none ends for a while."""
        try:
            turn, answer = self._answers.get(timeout=POLL_S)
        except Empty:
            self._abandon_late()
            return
        if self._running.get(turn.slot_number) is not turn:
            return  # the late answer of an abandoned job
        if isinstance(answer, BaseException):
            raise answer
        self._settle(turn, answer)

    def _settle(self, turn: _Turn, outcome: Outcome) -> None:
        """Keep a job's outcome, or let it be done again; its slot goes on with the next job."""
        del self._running[turn.slot_number]
        if not (isinstance(outcome, JobFailure) and outcome.machine and self._is_retried(turn.job, outcome)):
            self._outcomes[turn.job] = outcome
            self._on_outcome(turn.job, outcome)
        self._start(turn.slot_number)

    def _is_retried(self, job: int, failure: JobFailure) -> bool:
        """Whether a job that the machine failed is done again. Raises the machine's error if that helps no more."""
        self._tries[job] += 1
        if self._tries[job] <= RETRIES:
            self._todo.append(job)
            return True
        if failure.error is not None:
            raise failure.error
        return False

    def _abandon_late(self) -> None:
        timeout_s = self._dispatcher.timeout_s
        for turn in [t for t in self._running.values() if time.monotonic() - t.started > timeout_s]:
            self._dispatcher.abandon(turn.slot_number, turn.slot)
            self._settle(turn, JobFailure(f"not done after {timeout_s:g} s", "given up: --job-timeout\n"))

    def _abandon_all(self) -> None:
        turns = list(self._running.values())
        for turn in turns:
            self._dispatcher.abandon(turn.slot_number, turn.slot)
        for turn in turns:
            assert turn.thread is not None
            turn.thread.join(JOIN_S)
