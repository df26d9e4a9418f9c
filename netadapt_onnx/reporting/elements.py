"""The parts of a page as HTML: every text that goes in is escaped."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from html import escape as escape_html

from netadapt_onnx.common.escape import escape

# A table with more rows than this is folded, below a line that says what it holds.
MOST_ROWS = 24
# A name with more characters than this needs room.
LONG_NAME = 16


class Html(str):
    """HTML that is ready, among texts that are still to be escaped."""

    __slots__ = ()


def escaped(text: object) -> str:
    """Text for HTML: it is neither markup, nor does it change the direction of the text around it."""
    return text if isinstance(text, Html) else escape_html(escape(text), quote=True)


def table(
    headers: Sequence[str],
    rows: Iterable[Sequence[object]],
    *,
    text: Collection[int] = (0,),
    marked: Collection[int] = (),
) -> Html:
    """A table; every cell is escaped, unless it is HTML already.

    Args:
        headers: The column titles.
        rows: The cells of each row.
        text: The columns that hold words, to the left; the others hold numbers, to the right.
        marked: The rows that stand out.
    """

    body = [list(row) for row in rows]
    classes = {column: "t long" if _is_long(column, body) else "t" for column in text}

    def cells(tag: str, row: Sequence[object]) -> str:
        kinds = [f' class="{classes[column]}"' if column in classes else "" for column in range(len(row))]
        return "".join(f"<{tag}{kind}>{escaped(cell)}</{tag}>" for kind, cell in zip(kinds, row, strict=True))

    marks = dict.fromkeys(marked, ' class="marked"')
    lines = "".join(f"<tr{marks.get(number, '')}>{cells('td', row)}</tr>" for number, row in enumerate(body))
    return Html(
        f'<div class="wide"><table><thead><tr>{cells("th", headers)}</tr></thead><tbody>{lines}</tbody></table></div>'
    )


def _is_long(column: int, rows: Sequence[Sequence[object]]) -> bool:
    """Whether a column holds names that would be broken in the middle if it were narrow."""
    cells = (row[column] for row in rows if column < len(row))
    return any(len(str(cell)) > LONG_NAME for cell in cells if not isinstance(cell, Html))


def words(headers: Sequence[str], rows: Sequence[Sequence[object]]) -> Html:
    """A table of which every column holds words."""
    return table(headers, rows, text=range(len(headers)))


def folded(what: str, rows: Sequence[object], shown: Html) -> Html:
    """A table as it is or, if it has many rows, hidden until the reader opens it."""
    return shown if len(rows) <= MOST_ROWS else collapsible(f"{what} ({len(rows)} rows)", shown)


def collapsible(summary: str, *parts: str) -> Html:
    """Content that is hidden until the reader opens it."""
    return Html(f"<details><summary>{escaped(summary)}</summary>{''.join(parts)}</details>")


def section(title: str, *parts: str) -> Html:
    """A section with a heading."""
    return Html(f"<section><h2>{escaped(title)}</h2>{''.join(parts)}</section>")


def paragraph(text: object, kind: str = "") -> Html:
    """A paragraph of escaped text; `kind` is its CSS class."""
    return Html(f'<p class="{kind}">{escaped(text)}</p>' if kind else f"<p>{escaped(text)}</p>")


def card(name: str, value: str, lines: Iterable[tuple[str, str]]) -> Html:
    """A number that is seen first, with its name above, and below it lines of text, each with a CSS class."""
    below = "".join(paragraph(text, f"small {kind}".strip()) for text, kind in lines)
    return Html(f'<div class="card">{paragraph(name, "name")}{paragraph(value, "value")}{below}</div>')


def grid(kind: str, parts: Iterable[str]) -> Html:
    """Parts side by side where there is room: `cards` or `charts`."""
    return Html(f'<div class="{kind}">{"".join(parts)}</div>')


def bar(before: float, after: float, longest: float) -> Html:
    """Two amounts as bars over each other; `longest` would fill the width. Numbers beside it say the same."""
    if longest <= 0:
        return Html("")
    widths = (f"{100 * min(1.0, max(0.0, value) / longest):.1f}%" for value in (before, after))
    return Html(
        '<span class="bar" aria-hidden="true"><i style="width:{}"></i><b style="width:{}"></b></span>'.format(*widths)
    )


BAR_KEY = Html('<span class="key"></span> original, <span class="key after"></span> result')
