"""Progress on a terminal: one line with a bar, a clock, the time left and, where there is room, words."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from threading import Event, Thread
from typing import TYPE_CHECKING

from netadapt_onnx.common.escape import escape
from netadapt_onnx.common.progress import Stages, watching

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

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
        get_renderable=lambda: line(stages, console),
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


def line(stages: Stages, console: Console) -> Table:
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
