"""Graphs as Graphviz's DOT text, and as pictures of it: .svg by Graphviz's `dot`, .html by a browser alone.

A page holds Graphviz as WebAssembly (`viz_js/`), which lays the graph out when the page is opened: neither this machine
nor the reader's needs Graphviz or a network.
"""

from __future__ import annotations

import gzip
import shutil
import subprocess
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from netadapt_onnx.common.escape import escape
from netadapt_onnx.common.files import write_atomically
from netadapt_onnx.common.progress import stage
from netadapt_onnx.errors import NetadaptError, one_line
from netadapt_onnx.reporting.elements import paragraph
from netadapt_onnx.reporting.page import page

Attributes = Mapping[str, object]
# Of a line of text in a drawing.
LONGEST = 100
FORMS = (".svg", ".html", ".dot")
_GRAPH = {"rankdir": "TB", "bgcolor": "white", "fontname": "Helvetica,Arial,sans-serif", "ranksep": 0.3, "nodesep": 0.3}
# Of a graph with many more edges than nodes: 28 densely connected layers take 0.4 s instead of 6.
_DENSE = {"nslimit": 1, "nslimit1": 1, "mclimit": 0.2, "splines": "line"}
_NODE = {"fontname": "Helvetica,Arial,sans-serif", "fontsize": 11, "height": 0.3, "margin": "0.2,0.06"}
_EDGE = {"arrowsize": 0.6, "color": "#5b6270"}
_DRAW = """
const place = document.getElementById("network");
Viz.instance()
  .then(viz => place.replaceChildren(viz.renderSVGElement(JSON.parse(document.getElementById("data").textContent).dot)))
  .catch(error => { place.textContent = "This browser cannot draw the network: " + error; });
"""


@dataclass(frozen=True)
class Drawing:
    """A directed graph to be drawn.

    Attributes:
        title: What it shows.
        legend: A sentence or two on its colours.
        nodes: The attributes of each node, by Graphviz's names.
        edges: The numbers of two nodes each, and the attributes of the edge between them.
    """

    title: str
    legend: str
    nodes: Sequence[Attributes]
    edges: Sequence[tuple[int, int, Attributes]]

    def dot(self, *, captioned: bool) -> str:
        """The graph as DOT text, with title and legend above it if it is `captioned`."""
        caption = {"labelloc": "t", "label": (self.title, *textwrap.wrap(self.legend, 80), "")}
        hurry = _DENSE if len(self.edges) > 2 * len(self.nodes) else {}
        lines = [f"graph {_list({**_GRAPH, **hurry, **(caption if captioned else {})})};"]
        lines += [f"node {_list(_NODE)};", f"edge {_list(_EDGE)};"]
        lines += [f"{number} {_list(attributes)};" for number, attributes in enumerate(self.nodes)]
        lines += [f"{a} -> {b} {_list(attributes)};" for a, b, attributes in self.edges]
        return "digraph {\n" + "".join(f"  {line}\n" for line in lines) + "}\n"


def require_drawable(file: Path) -> None:
    """Raise NetadaptError unless a drawing can be written to a file of this name."""
    if file.suffix not in FORMS:
        raise NetadaptError(f"{file}: no form of a drawing", hint=f"one of {', '.join(FORMS)}", code="usage")
    if file.suffix == ".svg" and shutil.which("dot") is None:
        raise NetadaptError(
            f"{file}: an .svg is drawn by Graphviz, and its program `dot` is not on PATH",
            hint=f"install it (apt install graphviz, brew install graphviz), or name {file.with_suffix('.html')}",
            code="missing-program",
        )


@stage("drawing the network")
def write_drawing(file: Path, drawing: Drawing) -> None:
    """Draw a graph into a file as its suffix says. Raises NetadaptError where Graphviz cannot."""
    if file.suffix == ".html":
        parts = [
            paragraph(drawing.legend),
            '<div class="wide" id="network" style="text-align: center">This page needs JavaScript.</div>',
        ]
        data = page(drawing.title, parts, {"dot": drawing.dot(captioned=False)}, scripts=[_viz_js(), _DRAW]).encode()
    else:
        text = drawing.dot(captioned=True).encode()
        data = text if file.suffix == ".dot" else _svg(file, text)
    write_atomically(file, data)


def _svg(file: Path, text: bytes) -> bytes:
    done = subprocess.run(["dot", "-Tsvg"], input=text, capture_output=True, check=False)
    if done.returncode:
        reason = one_line(RuntimeError(done.stderr.decode(errors="replace")))
        raise NetadaptError(f"{file}: Graphviz's dot ended with {done.returncode}: {reason}", code="drawing")
    return done.stdout


def _viz_js() -> str:
    return gzip.decompress((Path(__file__).parent / "viz_js" / "viz-global.js.gz").read_bytes()).decode()


def _list(attributes: Attributes) -> str:
    return f"[{', '.join(f'{name}={_quoted(value)}' for name, value in attributes.items())}]"


def _quoted(value: object) -> str:
    """A quoted string of DOT that shows text as it is, of a tuple each member on a line of its own.

    Graphviz gives meaning to backslashes and HTML's entities. What is too long to be read in a drawing is cut.

    >>> print(_quoted('a "name" of &lt;one&gt; line'), _quoted(("two", "lines")))
    "a \\"name\\" of &amp;lt;one&amp;gt; line" "two\\nlines"
    """
    lines = value if isinstance(value, tuple) else (value,)
    return '"' + "\\n".join(_line(escape(line)) for line in lines) + '"'


def _line(text: str) -> str:
    if len(text) > LONGEST:
        text = f"{text[: LONGEST // 2]}…{text[-LONGEST // 2 :]}"
    return text.replace("\\", "\\\\").replace('"', '\\"').replace("&", "&amp;")
