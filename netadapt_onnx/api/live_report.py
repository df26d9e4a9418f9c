"""The report of a run while it is on: `adapt --live` rewrites it after every iteration."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from netadapt_onnx.api.report import require_charts, write_report
from netadapt_onnx.errors import NetadaptError

Update = Callable[[], None]


@contextmanager
def live_report(run: Path, log: Callable[[str], None], *, is_on: bool) -> Iterator[Update]:
    """What rewrites RUN/report.html while a run is on; when the block ends, the page says how the run has ended.

    A page that cannot be written never costs a run: `log` gets one line that says why, once.

    Args:
        run: The run directory.
        log: Gets that line.
        is_on: Whether there is to be such a page; if not, what is yielded does nothing.

    Raises:
        NetadaptError: vl-convert, which draws charts, is not installed.
    """
    if not is_on:
        yield lambda: None
        return
    require_charts()
    problems: set[str] = set()
    has_begun = False

    def write(*, live: bool) -> None:
        try:
            notes = write_report(run, live=live)
        except NetadaptError as error:
            notes = (f"{run / 'report.html'} was not written: {error}",)
        for note in notes:
            if note not in problems:
                problems.add(note)
                log(note)

    def update() -> None:
        nonlocal has_begun
        has_begun = True
        write(live=True)

    try:
        yield update
    finally:
        if has_begun:
            write(live=False)
