"""One HTML page: nothing fetched, no script unless asked for, dark and light, readable on a phone and on paper."""

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
# Charts that answer to the mouse take the place of those that were rendered; expressions are interpreted, not compiled,
# so that the policy needs to allow this script and nothing else.
LIVE = """
const view = () => document.querySelectorAll("figure").forEach(figure => {
  const spec = JSON.parse(figure.querySelector("script").textContent), place = document.createElement("div");
  vegaEmbed(place, spec, {renderer: "svg", actions: false, ast: true})
    .then(() => figure.querySelector("svg").replaceWith(place));
});
view();
"""


class Drawer:
    """Renders charts for one page; `live`: with their specifications beside them."""

    def __init__(self, *, live: bool = False) -> None:
        self.live = live
        self.failures: list[str] = []
        self._numbers = itertools.count()

    def figure(self, spec: charts.Spec) -> str:
        """A chart as SVG, whose text comes escaped from the renderer; a line that says why where there can be none."""
        try:
            svg = charts.svg(spec)
        except Exception as error:  # whatever it is: a page without one of its charts is better than none
            is_explained = isinstance(error, NetadaptError)
            self.failures.append(
                str(error) if is_explained else f"a chart cannot be drawn: {escape_joined(repr(error))}"
            )
            return paragraph(self.failures[-1], "missed")
        number = next(self._numbers)
        for name in set(re.findall(r' id="([^"]+)"', svg)):  # each chart numbers its clips anew
            svg = svg.replace(f'id="{name}"', f'id="c{number}-{name}"').replace(
                f"url(#{name})", f"url(#c{number}-{name})"
            )
        label = shown(spec.get("title", ""))
        beside = (
            f'<script type="application/json">{harmless(charts.styled(charts.drawable(spec)))}</script>'
            if self.live
            else ""
        )
        return f'<figure class="wide" aria-label="{label}">{svg}{beside}</figure>'


def harmless(data: object) -> str:
    """JSON that a name in it cannot break out of."""
    return json_bytes(data, str).decode().replace("<", "\\u003c")


def shown(text: object) -> str:
    """Text of others in HTML: it is neither markup, nor does it turn the direction of what stands beside it."""
    return escape_html(escape(text), quote=True)


def table(headers: Sequence[str], rows: Iterable[Sequence[object]], kind: str = "numbers") -> str:
    """A table of numbers, `numbers named` with names in the second column, or of `words`; every cell is escaped."""
    head = "".join(f"<th>{shown(name)}</th>" for name in headers)
    body = "".join("<tr>" + "".join(f"<td>{shown(cell)}</td>" for cell in row) + "</tr>" for row in rows)
    return f'<div class="wide"><table class="{kind}"><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'


def folded(summary: str, *parts: str) -> str:
    """What only some readers want to see."""
    return f"<details><summary>{shown(summary)}</summary>{''.join(parts)}</details>"


def section(title: str, *parts: str) -> str:
    """A heading and what follows it."""
    return f"<section><h2>{shown(title)}</h2>{''.join(parts)}</section>"


def paragraph(text: str, kind: str = "") -> str:
    """Escaped text."""
    return f'<p class="{kind}">{shown(text)}</p>' if kind else f"<p>{shown(text)}</p>"


def page(title: str, parts: Iterable[str], data: object, *, live: bool = False) -> str:
    """The whole document, `data` in it once as JSON; `live`: with Vega's runtime, charts answer to the mouse."""
    scripts = list(_runtime()) if live else []
    allowed = "".join(f" '{_hash(script)}'" for script in scripts)
    policy = f"{POLICY}; script-src{allowed}" if live else POLICY
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{shown(title)}</title><style>{STYLE}</style></head><body><h1>{shown(title)}</h1>"
        f'{"".join(parts)}<script type="application/json" id="data">{harmless(data)}</script>'
        f"{''.join(f'<script>{script}</script>' for script in scripts)}</body></html>\n"
    )


def _runtime() -> Iterator[str]:
    import vl_convert

    bundle: str = vl_convert.javascript_bundle("window.vegaEmbed = vegaEmbed;")
    yield bundle.replace("</script", "<\\/script")
    yield LIVE


def _hash(script: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
