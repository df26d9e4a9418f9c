"""What is going on, for whoever watches: long work names its stages and counts their steps; a terminal shows one line.

Who watches is a context variable, as with logging: dozens of functions take long, and a callback handed through
to each of them would go through many more that have no use for it. A thread starts without one, so jobs that run side
by side say nothing; the work that waits for them does. The line has a bar, a clock, the time left and, where there is
room, words."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from threading import Event, Thread
from typing import TYPE_CHECKING, TypeVar

from netadapt_onnx.common.escape import escape

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

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
    return unheard if stages is None else stages.report


@contextmanager
def stage(name: str, total: int = 0, bound_s: float | None = None) -> Iterator[Steps]:
    """A stage of the work; gives what to call with the number of steps done, and with what else to say of it."""
    stages = _WATCHER.get()
    if stages is None:
        yield unheard
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


def unheard(*_: object) -> None:
    """A `Progress`, or a log, that nobody watches."""


def _kind(name: str) -> str:
    """Stages that differ in a number only are of a kind: iteration 3 takes about as long as iteration 2."""
    return re.sub(r"\d+", "#", name)


# The bar's width on terminals of so many columns at least; words get what is left.
BARS = ((100, 20), (70, 12), (50, 6), (0, 0))
REFRESHES_PER_S = 4


@contextmanager
def shown(stages: Stages, patience_s: float = 0.0) -> Iterator[Callable[[str], None]]:
    """Show on stderr what is going on inside, once it takes longer than `patience_s`; gives what prints above it.

    The line is drawn by a thread of its own: clocks move while the work is inside one long call.
    """
    from rich.console import Console
    from rich.live import Live
    from rich.text import Text

    console = Console(stderr=True, highlight=False)
    live = Live(
        get_renderable=lambda: progress_line(stages, console),
        console=console,
        transient=True,
        refresh_per_second=REFRESHES_PER_S,
    )
    over = Event()

    def start() -> None:
        if not over.wait(patience_s):
            live.start(refresh=True)

    waiting = Thread(target=start, daemon=True)
    waiting.start()
    try:
        if not patience_s:
            waiting.join()
        with watching(stages):
            yield lambda text: console.print(Text(escape(text)))
    finally:
        over.set()
        waiting.join()
        live.stop()


def progress_line(stages: Stages, console: Console) -> Table:
    """The current stage in one line of the console's width: the words are shortened, nothing else is."""
    from rich.progress_bar import ProgressBar
    from rich.table import Table
    from rich.text import Text

    stage = stages.current
    times, words = clocks(stage.elapsed_s, stage.left_s), stage.name
    words += f" {stage.done}/{stage.total}" if stage.total else ""
    words += f": {stage.detail}" if stage.detail else ""
    bar = next(width for least, width in BARS if console.width >= least)
    # A cell of the last column is left free: terminals wrap there.
    room = console.width - len(times) - (bar + 1 if bar else 0) - 2
    grid = Table.grid(padding=(0, 1, 0, 0))
    cells = [Text(times, style="progress.elapsed"), Text(shortened(words, room))]
    if bar:
        grid.add_column(width=bar)
        total, done = (stage.total, stage.done) if stage.total else (None, 0)
        cells = [ProgressBar(total, done, width=bar, pulse=not stage.total), *cells]  # type: ignore[list-item]
    grid.add_column(width=len(times), no_wrap=True)
    grid.add_column(width=max(1, room), no_wrap=True)
    grid.add_row(*cells)
    return grid


def clocks(elapsed_s: float, left_s: float | None) -> str:
    """How long a stage has taken and, where that is known, about how long it will."""
    return _clock(elapsed_s) if left_s is None else f"{_clock(elapsed_s)}, {_clock(left_s)} left"


def shortened(words: str, room: int) -> str:
    """As many of the words as there is room for."""
    words = escape(" ".join(words.split()))
    return words if len(words) <= room else words[: max(0, room - 1)].rstrip(" ,:(") + "…"


def _clock(seconds: float) -> str:
    """0:07, 12:05, 1:02:05."""
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"
