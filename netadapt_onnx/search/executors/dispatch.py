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

from netadapt_onnx.search.executors.protocol import RETRIES, Failed, Finished, Outcome, Request, Shared, Work

# How often the loop looks at the clock; also how long Ctrl-C may take where waiting cannot be interrupted.
LOOK_S = 0.2
# Threads of jobs that were given up are waited for so long; work that never looks up is left behind.
PATIENCE_S = 10.0


class Slot(Protocol):
    """Something that does one job at a time."""

    def do(self, work: Work, shared: Sequence[Shared], request: Request, began: Callable[[], None]) -> Outcome:
        """Do a job and wait for it; `began` is called when its worker is up and has all it needs.

        Raises only what no job is to blame for.
        """
        ...

    def abandon(self) -> None:
        """End, from another thread, whatever it does now; it is not used again."""
        ...


@dataclass(eq=False)
class _Turn:
    """A job on a slot. Its time counts from `began` on: queueing and starting a worker are not its fault."""

    place: int
    number: int
    slot: Slot
    began: float = math.inf
    thread: Thread | None = None


class Dispatcher:
    """`make(place)` gives the slot of a place; slots live on between calls, and are made anew when they were lost."""

    def __init__(self, make: Callable[[int], Slot], timeout_s: float) -> None:
        self._make = make
        self._timeout_s = timeout_s
        self._slots: dict[int, Slot] = {}

    def run(
        self, work: Work, shared: Sequence[Shared], requests: Sequence[Request], finished: Finished, *, places: int
    ) -> list[Outcome]:
        """The outcomes of `requests` in order, at most `places` of them at work at a time."""
        todo = deque(range(len(requests)))
        tries = [0] * len(requests)
        outcomes: dict[int, Outcome] = {}
        answers: SimpleQueue[tuple[_Turn, Outcome | BaseException]] = SimpleQueue()
        running: dict[int, _Turn] = {}

        def begin(place: int) -> None:
            if not todo:
                return
            if place not in self._slots:
                self._slots[place] = self._make(place)
            turn = _Turn(place, todo.popleft(), self._slots[place])

            def began() -> None:
                turn.began = time.monotonic()

            def go() -> None:
                try:
                    answers.put((turn, turn.slot.do(work, shared, requests[turn.number], began)))
                except BaseException as error:  # raised where everybody waits
                    answers.put((turn, error))

            turn.thread = Thread(target=go, daemon=True)
            running[place] = turn
            turn.thread.start()

        def settle(turn: _Turn, outcome: Outcome) -> None:
            del running[turn.place]
            if isinstance(outcome, Failed) and outcome.machine:
                tries[turn.number] += 1
                if tries[turn.number] <= RETRIES:
                    todo.append(turn.number)
                    return begin(turn.place)
                if outcome.error is not None:
                    raise outcome.error
            outcomes[turn.number] = outcome
            finished(turn.number, outcome)
            return begin(turn.place)

        try:
            for place in range(min(places, len(requests))):
                begin(place)
            while running:
                try:
                    turn, answer = answers.get(timeout=LOOK_S)
                except Empty:
                    for late in [t for t in running.values() if time.monotonic() - t.began > self._timeout_s]:
                        self._give_up(late)
                        settle(late, Failed(f"not done after {self._timeout_s:g} s", "given up: --job-timeout\n"))
                    continue
                if running.get(turn.place) is not turn:
                    continue  # the late answer of a job that was given up
                if isinstance(answer, BaseException):
                    raise answer
                settle(turn, answer)
        except BaseException:
            turns = list(running.values())
            for turn in turns:
                self._give_up(turn)
            for turn in turns:
                assert turn.thread is not None
                turn.thread.join(PATIENCE_S)
            raise
        return [outcomes[number] for number in range(len(requests))]

    def _give_up(self, turn: _Turn) -> None:
        self._slots.pop(turn.place, None)
        turn.slot.abandon()

    def close(self) -> None:
        """End every slot."""
        while self._slots:
            self._slots.popitem()[1].abandon()
