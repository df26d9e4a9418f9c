"""Markdown tables."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

Cells = Sequence[str]


def table(headers: Cells, rows: Iterable[Cells]) -> str:
    """A Markdown table."""
    lines = [_line(headers), "|" + "---|" * len(headers), *(_line(row) for row in rows)]
    return "\n".join(lines)


def _line(cells: Cells) -> str:
    return "|" + "|".join(f" {cell} " if cell else " " for cell in cells) + "|"
