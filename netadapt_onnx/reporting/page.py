"""One HTML page: no script, nothing fetched, dark and light, readable on a phone and on paper."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape

import msgspec

POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:"
STYLE = """
:root { color-scheme: light dark; --ink: #1c1f23; --soft: #5b6270; --paper: #fff; --line: #dcdfe4; --good: #14733b;
  --bad: #b3261e; }
@media (prefers-color-scheme: dark) { :root { --ink: #e8eaed; --soft: #a3a9b3; --paper: #16181b; --line: #33373d;
  --good: #5fce8c; --bad: #ff8a80; } }
body { font: 16px/1.5 system-ui, sans-serif; color: var(--ink); background: var(--paper); margin: 0 auto;
  max-width: 62rem; padding: 1rem; }
h1 { font-size: 1.5rem; } h2 { font-size: 1.2rem; margin-top: 2.2rem; }
p.verdict { font-size: 1.1rem; } .met { color: var(--good); } .missed { color: var(--bad); }
.wide { overflow-x: auto; } figure { margin: 1rem 0; } figure svg { min-width: 32rem; height: auto; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
th, td { text-align: right; padding: 0.2rem 0.8rem 0.2rem 0; border-bottom: 1px solid var(--line); }
th:first-child, td:first-child { text-align: left; overflow-wrap: anywhere; min-width: 7rem; }
th { white-space: nowrap; } table.words td { text-align: left; overflow-wrap: anywhere; vertical-align: top; }
table.words th { text-align: left; }
th { color: var(--soft); font-weight: 600; }
@media print { body { max-width: none; } figure { break-inside: avoid; } }
"""


def table(headers: Sequence[str], rows: Iterable[Sequence[object]], kind: str = "numbers") -> str:
    """A table of numbers, or of words, which may break; every cell is escaped."""
    head = "".join(f"<th>{escape(name)}</th>" for name in headers)
    body = "".join("<tr>" + "".join(f"<td>{escape(str(cell))}</td>" for cell in row) + "</tr>" for row in rows)
    return f'<div class="wide"><table class="{kind}"><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'


def figure(svg: str) -> str:
    """A chart that was rendered to SVG; its text comes escaped from the renderer."""
    return f'<figure class="wide">{svg}</figure>'


def section(title: str, *parts: str) -> str:
    """A heading and what follows it."""
    return f"<section><h2>{escape(title)}</h2>{''.join(parts)}</section>"


def paragraph(text: str, kind: str = "") -> str:
    """Escaped text."""
    return f'<p class="{kind}">{escape(text)}</p>' if kind else f"<p>{escape(text)}</p>"


def page(title: str, parts: Iterable[str], data: object) -> str:
    """The whole document, `data` in it once as JSON."""
    body = msgspec.json.encode(data, enc_hook=str).decode()
    # A name that a model gives a layer must not end the block.
    safe = body.replace("<", "\\u003c").replace("\u2028", "\\u2028").replace("\u2029", "\\u2029")
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(title)}</title><style>{STYLE}</style></head><body><h1>{escape(title)}</h1>"
        f'{"".join(parts)}<script type="application/json" id="data">{safe}</script></body></html>\n'
    )
