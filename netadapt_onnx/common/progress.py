"""What is going on, for whoever watches: long work names its stages and counts their steps.

Who watches is a context variable, as with logging: dozens of functions take long, and a callback handed through
to each of them would go through many more that have no use for it. A thread starts without one, so jobs that run side
by side say nothing; the work that waits for them does.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TypeVar

# `progress(done, total, text)`: text is the stage's name and, behind ": ", what else to say. What cannot be counted
# is one step that is not done.
Progress = Callable[[int, int, str], None]
Clock = Callable[[], float]
Steps = Callable[..., None]
T = TypeVar("T")


class Stage:
    """A part of the work, of `total` steps (0: not counted), that takes at most `bound_s` (None: unknown).

    `parent` is the stage that it is part of, `pace_s` what a step of an earlier stage of its kind took.
    """

    def __init__(self, name: str, clock: Clock, parent: Stage | None = None, pace_s: float | None = None) -> None:
        self.name = name
        self._clock = clock
        self._parent = parent
        self._began = clock()
        self._earlier_s = pace_s
        self.divide(0, None)

    def divide(self, total: int, bound_s: float | None, done: int = 0) -> None:
        """From here on it has so many steps, of which some are done, and takes at most so long."""
        self.total, self.done, self.bound_s, self.detail = total, done, bound_s, ""
        self._first = done
        self._since = self._stepped = self._clock()

    def step(self, done: int, detail: str = "") -> None:
        """So many steps are done."""
        if done > self.done:
            self.done, self._stepped = done, self._clock()
        self.detail = detail

    @property
    def elapsed_s(self) -> float:
        """Seconds since it began."""
        return self._clock() - self._began

    @property
    def pace_s(self) -> float | None:
        """Seconds per step."""
        steps = self.done - self._first
        return (self._stepped - self._since) / steps if steps > 0 else self._earlier_s

    @property
    def bound_left_s(self) -> float | None:
        """What is left of the seconds that it takes at most, itself or with all that it is part of."""
        own_s = None if self.bound_s is None else self.bound_s - (self._clock() - self._since)
        bounds = [own_s, None if self._parent is None else self._parent.bound_left_s]
        return min((bound for bound in bounds if bound is not None), default=None)

    @property
    def left_s(self) -> float | None:
        """About how many seconds the rest takes; None if nothing determines it."""
        estimates = [] if self.bound_left_s is None else [self.bound_left_s]
        if self.total and self.pace_s is not None:
            rest, waiting_s = self.total - self.done, self._clock() - self._stepped
            # A step that takes longer than those before says that the others may, too.
            slower_s = (self._clock() - self._since) / (self.done - self._first + 1)
            estimates.append(max(self.pace_s * rest - waiting_s, min(slower_s, waiting_s) * (rest - 1)))
        return max(0.0, min(estimates)) if estimates else None


class Stages:
    """The stages that are going on, each within the one before; the first is all of the work."""

    def __init__(self, title: str, clock: Clock = time.monotonic) -> None:
        self._clock = clock
        self._paces: dict[str, float] = {}
        self._stages = [Stage(title, clock)]
        self._reported: list[Stage] = []

    @property
    def current(self) -> Stage:
        """The innermost one."""
        return self._stages[-1]

    @property
    def open(self) -> Stage | None:
        """The innermost one if it has neither a count nor a bound, and is not the first."""
        stage = self.current
        return stage if len(self._stages) > 1 and not stage.total and stage.bound_s is None else None

    def begin(self, name: str, total: int = 0, bound_s: float | None = None, done: int = 0) -> Stage:
        """A stage within the current one."""
        stage = Stage(name, self._clock, self.current, self._paces.get(_kind(name)))
        stage.divide(total, bound_s, done)
        self._stages.append(stage)
        return stage

    def end(self, stage: Stage) -> None:
        """It is over, and with it what is still open of those within it."""
        if stage not in self._stages:
            return
        if stage.pace_s is not None:
            self._paces[_kind(stage.name)] = stage.pace_s
        del self._stages[self._stages.index(stage) :]
        self._reported = [one for one in self._reported if one in self._stages]

    def report(self, done: int, total: int, text: str) -> None:
        """A `Progress`: another name or total, or fewer steps done, begins another stage; a full one is over."""
        name, _, detail = text.partition(": ")
        same = [one for one in self._stages if (one.name, one.total) == (name, total) and one.done <= done]
        if not same and self._reported and self.current is self._reported[-1]:
            self.end(self.current)
        stage = same[-1] if same else self.begin(name, total, done=done)
        if not same:
            self._reported.append(stage)
        stage.step(done, detail)
        if done >= total and stage in self._reported:
            self.end(stage)


_WATCHER: ContextVar[Stages | None] = ContextVar("watcher", default=None)


@contextmanager
def watching(stages: Stages) -> Iterator[None]:
    """Whatever happens inside is reported to `stages`."""
    token = _WATCHER.set(stages)
    try:
        yield
    finally:
        _WATCHER.reset(token)


def reporter() -> Progress:
    """The `Progress` that reports to whoever watches in this context, from any thread."""
    stages = _WATCHER.get()
    return _unheard if stages is None else stages.report


@contextmanager
def stage(name: str, total: int = 0, bound_s: float | None = None) -> Iterator[Steps]:
    """A stage of the work; gives what to call with the number of steps done, and with what else to say of it."""
    stages = _WATCHER.get()
    if stages is None:
        yield _unheard
        return
    begun = stages.begin(name, total, bound_s)
    try:
        yield begun.step
    finally:
        stages.end(begun)


@contextmanager
def steps(name: str, total: int = 0, bound_s: float | None = None) -> Iterator[Steps]:
    """As `stage`, by the name of the stage that is going on where that has no steps and no bound of its own.

    For work that is part of many others, which know better than it what it is done for.
    """
    stages = _WATCHER.get()
    parent = None if stages is None else stages.open
    if parent is None:
        with stage(name, total, bound_s) as step:
            yield step
        return
    parent.divide(total, bound_s)
    try:
        yield parent.step
    finally:
        parent.divide(0, None)


def counting(name: str, work: Sequence[T]) -> Iterator[T]:
    """Its members, each of which is one of the `steps`."""
    with steps(name, len(work)) as report:
        for done, one in enumerate(work, 1):
            yield one
            report(done)


def _unheard(*_: object) -> None:
    """Nobody watches."""


def _kind(name: str) -> str:
    """Stages that differ in a number only are of a kind: iteration 3 takes about as long as iteration 2."""
    return re.sub(r"\d+", "#", name)
