"""An HTML page as text: it fetches nothing, runs no script unless it is interactive, and prints well."""

from __future__ import annotations

import base64
import hashlib
import itertools
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from html import escape as escape_html

from netadapt_onnx.common import charts
from netadapt_onnx.common.escape import escape, escape_joined
from netadapt_onnx.common.json_output import json_bytes
from netadapt_onnx.errors import NetadaptError

Draw = Callable[[charts.Spec], str]

POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:"
STYLE = """
:root { color-scheme: light dark; --ink: #1c1f23; --soft: #5b6270; --paper: #fff; --line: #dcdfe4; --good: #14733b;
  --bad: #b3261e; }
@media (prefers-color-scheme: dark) { :root { --ink: #e8eaed; --soft: #a3a9b3; --paper: #16181b; --line: #33373d;
  --good: #5fce8c; --bad: #ff8a80; } }
* { box-sizing: border-box; }
body { font: 16px/1.5 system-ui, sans-serif; color: var(--ink); background: var(--paper); margin: 0 auto;
  max-width: 62rem; padding: 1rem; overflow-wrap: anywhere; }
h1 { font-size: 1.5rem; } h2 { font-size: 1.2rem; margin-top: 2.2rem; }
p.verdict { font-size: 1.1rem; } .met { color: var(--good); } .missed { color: var(--bad); }
.wide { overflow-x: auto; } figure { margin: 1rem 0; } figure svg { min-width: 32rem; max-width: 100%; height: auto; }
table { border-collapse: collapse; margin-bottom: 1rem; font-variant-numeric: tabular-nums; }
th, td { text-align: right; padding: 0.2rem 0.8rem 0.2rem 0; white-space: nowrap;
  border-bottom: 1px solid var(--line); }
th:first-child, td:first-child { text-align: left; overflow-wrap: anywhere;
  min-width: min(14rem, 32vw); white-space: normal; }
table.words td { text-align: left; overflow-wrap: anywhere; vertical-align: top; white-space: normal; }
table.words th { text-align: left; } table.words td:first-child { overflow-wrap: normal; }
th:nth-child(n) { color: var(--soft); font-weight: 600; overflow-wrap: normal;
  white-space: normal; vertical-align: bottom; }
table.named td:nth-child(2) { white-space: normal; overflow-wrap: anywhere; min-width: 9rem; }
table.named :is(td, th):first-child { min-width: 0; white-space: nowrap; }
summary { cursor: pointer; color: var(--soft); }
@media print { body { max-width: none; font-size: 11px; } figure { break-inside: avoid; } .wide { overflow: visible; } }
"""
# Interactive charts replace those that were rendered; expressions are interpreted, not compiled, so that the policy
# needs to allow this script and nothing else.
INTERACTIVE_SCRIPT = """
const view = () => document.querySelectorAll("figure").forEach(figure => {
  const spec = JSON.parse(figure.querySelector("script").textContent), place = document.createElement("div");
  vegaEmbed(place, spec, {renderer: "svg", actions: false, ast: true})
    .then(() => figure.querySelector("svg").replaceWith(place));
});
view();
"""


class ChartRenderer:
    """Renders the charts of one page; of an `interactive` one with their specifications.

    `failures` says which charts could not be rendered, and why.
    """

    def __init__(self, *, interactive: bool = False) -> None:
        self.interactive = interactive
        self.failures: list[str] = []
        self._numbers = itertools.count()

    def figure(self, spec: charts.Spec) -> str:
        """A chart as SVG, whose text the renderer has escaped, or a paragraph with the reason why there is none."""
        try:
            svg = charts.svg(spec)
        except Exception as error:  # whatever it is: a page without one of its charts is better than none
            unexpected = f"a chart cannot be drawn: {escape_joined(repr(error))}"
            self.failures.append(str(error) if isinstance(error, NetadaptError) else unexpected)
            return paragraph(self.failures[-1], "missed")
        number = next(self._numbers)
        for name in set(re.findall(r' id="([^"]+)"', svg)):  # each chart numbers its clips anew
            svg = svg.replace(f'id="{name}"', f'id="c{number}-{name}"').replace(
                f"url(#{name})", f"url(#c{number}-{name})"
            )
        label = escaped(spec.get("title", ""))
        if self.interactive:
            data = json_for_script(charts.styled(charts.drawable(spec)))
            svg += f'<script type="application/json">{data}</script>'
        return f'<figure class="wide" aria-label="{label}">{svg}</figure>'


def json_for_script(data: object) -> str:
    """JSON for a script element, which no text in it can end."""
    return json_bytes(data, str).decode().replace("<", "\\u003c")


def escaped(text: object) -> str:
    """Text for HTML: it is neither markup, nor does it change the direction of the text around it."""
    return escape_html(escape(text), quote=True)


def table(headers: Sequence[str], rows: Iterable[Sequence[object]], kind: str = "numbers") -> str:
    """A table; every cell is escaped.

    Args:
        headers: The column titles.
        rows: The cells of each row.
        kind: `numbers`, `numbers named` (with names in the second column) or `words`: how columns are aligned.
    """
    head = "".join(f"<th>{escaped(name)}</th>" for name in headers)
    body = "".join("<tr>" + "".join(f"<td>{escaped(cell)}</td>" for cell in row) + "</tr>" for row in rows)
    return f'<div class="wide"><table class="{kind}"><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'


def collapsible(summary: str, *parts: str) -> str:
    """Content that is hidden until the reader opens it."""
    return f"<details><summary>{escaped(summary)}</summary>{''.join(parts)}</details>"


def section(title: str, *parts: str) -> str:
    """A section with a heading."""
    return f"<section><h2>{escaped(title)}</h2>{''.join(parts)}</section>"


def paragraph(text: str, kind: str = "") -> str:
    """A paragraph of escaped text; `kind` is its CSS class."""
    return f'<p class="{kind}">{escaped(text)}</p>' if kind else f"<p>{escaped(text)}</p>"


def page(
    title: str, parts: Iterable[str], data: object, *, interactive: bool = False, scripts: Sequence[str] = ()
) -> str:
    """The whole document.

    Args:
        title: The title, which is escaped.
        parts: The sections as HTML.
        data: What the page shows, for programs: it is embedded as JSON.
        interactive: Whether Vega's runtime is embedded, so that charts react to the mouse.
        scripts: Other scripts, which may run WebAssembly of their own.
    """
    embedded = [
        script.replace("</script", "<\\/script") for script in [*scripts, *(_vega_runtime() if interactive else ())]
    ]
    allowed = "".join(f" '{_hash(script)}'" for script in embedded) + " 'wasm-unsafe-eval'" * bool(scripts)
    policy = f"{POLICY}; script-src{allowed}" if embedded else POLICY
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escaped(title)}</title><style>{STYLE}</style></head><body><h1>{escaped(title)}</h1>"
        f'{"".join(parts)}<script type="application/json" id="data">{json_for_script(data)}</script>'
        f"{''.join(f'<script>{script}</script>' for script in embedded)}</body></html>\n"
    )


def _vega_runtime() -> Iterator[str]:
    import vl_convert

    bundle: str = vl_convert.javascript_bundle("window.vegaEmbed = vegaEmbed;")
    yield bundle
    yield INTERACTIVE_SCRIPT


def _hash(script: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
