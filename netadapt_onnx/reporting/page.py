"""An HTML page as text: it fetches nothing, runs no script unless it is interactive, and prints well."""

from __future__ import annotations

import base64
import hashlib
import itertools
import re
from collections.abc import Iterable, Iterator, Sequence
from typing import Protocol

from netadapt_onnx.common import charts
from netadapt_onnx.common.escape import escape_joined
from netadapt_onnx.common.json_output import json_bytes
from netadapt_onnx.errors import NetadaptError
from netadapt_onnx.reporting.elements import escaped, paragraph
from netadapt_onnx.reporting.style import STYLE

# A page of a run that is on asks for its file again after so many seconds.
RELOAD_S = 10

POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:"
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


class Draw(Protocol):
    """Renders a chart as HTML; `kind` is its CSS class, `label` says what it shows where it has no title."""

    def __call__(self, spec: charts.Spec, kind: str = "", label: str = "") -> str: ...  # noqa: D102


class ChartRenderer:
    """Renders the charts of one page; of an `interactive` one with their specifications.

    `failures` says which charts could not be rendered, and why.
    """

    def __init__(self, *, interactive: bool = False) -> None:
        self.interactive = interactive
        self.failures: list[str] = []
        self._numbers = itertools.count()

    def figure(self, spec: charts.Spec, kind: str = "", label: str = "") -> str:
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
        if self.interactive:
            data = json_for_script(charts.styled(charts.drawable(spec)))
            svg += f'<script type="application/json">{data}</script>'
        return f'<figure class="{escaped(kind)}" aria-label="{escaped(label or spec.get("title", ""))}">{svg}</figure>'


def json_for_script(data: object) -> str:
    """JSON for a script element, which no text in it can end."""
    return json_bytes(data, str).decode().replace("<", "\\u003c")


def page(
    title: str,
    parts: Iterable[str],
    data: object,
    *,
    interactive: bool = False,
    reloads: bool = False,
    scripts: Sequence[str] = (),
) -> str:
    """The whole document.

    Args:
        title: The title, which is escaped.
        parts: The sections as HTML.
        data: What the page shows, for programs: it is embedded as JSON.
        interactive: Whether Vega's runtime is embedded, so that charts react to the mouse.
        reloads: Whether the page loads its file again every few seconds.
        scripts: Other scripts, which may run WebAssembly of their own.
    """
    embedded = [
        script.replace("</script", "<\\/script") for script in [*scripts, *(_vega_runtime() if interactive else ())]
    ]
    allowed = "".join(f" '{_hash(script)}'" for script in embedded) + " 'wasm-unsafe-eval'" * bool(scripts)
    policy = f"{POLICY}; script-src{allowed}" if embedded else POLICY
    reload = f'<meta http-equiv="refresh" content="{RELOAD_S}">' if reloads else ""
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"{reload}"
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
