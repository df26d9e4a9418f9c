"""Results as text for people: numbers with units, tables, and whether they see progress."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import TYPE_CHECKING, Any

from netadapt_onnx.common.escape import escape, shell_command
from netadapt_onnx.common.progress import Stages
from netadapt_onnx.common.resources import COUNTED

if TYPE_CHECKING:
    from netadapt_onnx.common.resources import Resources

# tabulate puts so much between columns, and so much beside a header.
GAP, PADDING, NARROWEST = "  ", 2, 6
# Work that takes less needs no line of progress.
PATIENCE_S = 1.0


def count(value: float) -> str:
    """A count with a decimal prefix: 40551040 -> 40.6 M."""
    for limit, prefix in ((1e12, " T"), (1e9, " G"), (1e6, " M"), (1e3, " k")):
        if abs(value) >= limit:
            return f"{value / limit:.3g}{prefix}"
    return f"{value:.3g}"


def plural(number: int, noun: str) -> str:
    """A number of things: 1 model, 2 models."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def size(value: float) -> str:
    """Bytes with a decimal prefix: 1 MB is 10^6 bytes."""
    return count(value) + ("B" if abs(value) >= 1e3 else " B")


def milliseconds(value: float | None) -> str:
    """A time in ms with three significant digits."""
    return "" if value is None else f"{value:.3g} ms"


def millijoules(value: float) -> str:
    """An energy in mJ with three significant digits."""
    return f"{value:.3g} mJ"


def percent(value: float | None) -> str:
    """A fraction as a percentage with one decimal."""
    return "" if value is None else f"{100 * value:.1f}%"


def score(metric: str, value: float) -> str:
    """An accuracy as its metric is usually quoted: shares in percent, R2 and metrics of the user's as they are."""
    return percent(value) if metric in ("top1", "miou", "agreement") else f"{value:.4g}"


def ratio(after: float, before: float) -> str:
    """What is left: 0.50x, or 0.004x where two decimals would say that nothing is."""
    if not before:
        return ""
    share = after / before
    return f"{share:.1g}x" if 0 < share < 0.01 else f"{share:.2f}x"


def amount(resource: str, value: float) -> str:
    """An amount of a resource, perhaps of a named device (`latency@pi`), with its unit."""
    form = {"size": size, "memory": size, "latency": milliseconds, "energy": millijoules}.get(
        resource.partition("@")[0], count
    )
    return form(value)


def measured(resource: str, values: Mapping[str, float], intervals: Mapping[str, tuple[float, float]]) -> str:
    """What was measured of a resource, with its 95% interval; empty where nothing was."""
    if resource not in values:
        return ""
    ends = intervals.get(resource, (values[resource], values[resource]))
    value, low, high = (amount(resource, each) for each in (values[resource], *ends))
    if len({text.partition(" ")[2] for text in (value, low, high)}) == 1:  # which is said once
        low, high = (text.partition(" ")[0] for text in (low, high))
    return f"{value} ({low} to {high})"


def is_counted(resource: str) -> bool:
    """Whether a resource is known exactly of any model; others are predicted or measured."""
    return resource in COUNTED


def table(rows: Sequence[Sequence[object]], headers: Sequence[str] = (), *, text_columns: int = 1) -> str:
    """Aligned columns, the first `text_columns` of them to the left; strings stay as they are."""
    columns = max((len(row) for row in rows), default=len(headers))
    align = ["left"] * text_columns + ["right"] * (columns - text_columns)
    return _tabulated(_narrowed(rows, headers), headers, "simple", colalign=align if rows else None)


def listing(rows: Sequence[Sequence[object]], headers: Sequence[str] = ()) -> str:
    """Left-aligned columns of words."""
    return _tabulated(_narrowed(rows, headers), headers, "simple" if headers else "plain")


def _narrowed(rows: Sequence[Sequence[object]], headers: Sequence[str]) -> Sequence[Sequence[object]]:
    """The rows with cells broken where the terminal is too narrow for them."""
    widths = _widths(rows, headers)
    if widths is None:
        return rows
    from netadapt_onnx.common.wrap import wrapped_cell

    return [[wrapped_cell(str(cell), width) for cell, width in zip(row, widths, strict=False)] for row in rows]


def _widths(rows: Sequence[Sequence[object]], headers: Sequence[str]) -> list[int] | None:
    """What each column may take on a terminal that is too narrow for all: the widest wrap. None if there is room.

    Files and pipes get whole lines, whatever their length.
    """
    if not sys.stdout.isatty() or not rows:
        return None
    count = max(len(row) for row in rows)
    cells = [[str(row[i]) if i < len(row) else "" for row in rows] for i in range(count)]
    heads = [len(name) + PADDING for name in headers] or [0] * count
    least = [max(NARROWEST, head) for head in heads]
    longest = [max(len(part) for cell in column for part in cell.split("\n")) for column in cells]
    widths = list(map(max, longest, heads))
    room = shutil.get_terminal_size().columns - len(GAP) * (count - 1)
    if sum(widths) <= room:
        return None
    while sum(widths) > room:
        wide = max(range(count), key=lambda i: widths[i] - least[i])
        if widths[wide] <= least[wide]:
            break
        widths[wide] -= 1
    return widths


def plain(rows: Sequence[Sequence[object]]) -> str:
    """Columns without headers or lines; leading spaces stay."""
    return _tabulated(rows, (), "plain", preserve_whitespace=True)


def markdown(rows: Sequence[Sequence[object]], headers: Sequence[str]) -> str:
    """A table for GitHub and GitLab; the cells are Markdown already."""
    return _tabulated(rows, headers, "github")


def _tabulated(rows: Sequence[Sequence[object]], headers: Sequence[str], form: str, **layout: Any) -> str:
    from tabulate import tabulate

    return tabulate(rows, headers=headers, tablefmt=form, disable_numparse=True, **layout)


def cost_rows(before: Resources, after: Resources | None = None) -> list[list[str]]:
    """Rows of a cost table: resource, before and, if given, after and what is left."""
    forms = {"params": count, "macs": count, "size_bytes": size, "memory_bytes": size, "latency_ms": milliseconds}
    names = {"size_bytes": "file size", "memory_bytes": "peak activations", "latency_ms": "latency"}
    rows = []
    for key, form in forms.items():
        old = getattr(before, key)
        if old is None:
            continue
        row = [names.get(key, key), form(old)]
        if after is not None:
            new = getattr(after, key)
            row += ["", ""] if new is None else [form(new), ratio(new, old)]
        rows.append(row)
    return rows


def normalised_rows(before_ms: float | None, normalised: Resources | None) -> list[list[str]]:
    """The row of a cost table that says what normalising alone does to latency; none where that is nothing."""
    if before_ms is None or normalised is None or normalised.latency_ms is None:
        return []
    ms = normalised.latency_ms
    return [["latency, only normalised", milliseconds(before_ms), milliseconds(ms), ratio(ms, before_ms)]]


def spinner(title: str) -> AbstractContextManager[object]:
    """As `progress_bar` for work that is mostly over at once: only when it takes its time."""
    return progress_bar(title, PATIENCE_S)


@contextmanager
def progress_bar(title: str, patience_s: float = 0.0) -> Iterator[Callable[[str], None] | None]:
    """Show on stderr, if it is a terminal, what is going on inside; gives what prints a line above that, or None.

    Elsewhere nothing, or with `--verbose` the lines alone; with `--quiet` nothing anywhere.
    """
    verbosity = _verbosity()
    if verbosity == "quiet" or not sys.stderr.isatty():
        yield _say if verbosity == "verbose" else None
        return
    from netadapt_onnx.common.progress import shown

    with shown(Stages(title), patience_s) as log:
        yield log


def _verbosity() -> str:
    """`verbose`, `quiet` or nothing: as the command that is running was called."""
    import click

    context = click.get_current_context(silent=True)
    return "" if context is None else str(context.meta.get("netadapt_onnx.verbosity", ""))


def _say(line: str) -> None:
    sys.stderr.write(escape(line) + "\n")
    sys.stderr.flush()


def next_command(*words: object) -> str:
    """The line that says what to run next; paths are quoted so that it can be pasted into a shell."""
    return f"next: {shell_command(['netadapt-onnx', *words])}"


def with_line(text: str, line: str) -> str:
    """A command's text with one more line before what to run next."""
    body, advice, command = text.partition("\nnext: ")
    return f"{body}\n{line}{advice}{command}"
