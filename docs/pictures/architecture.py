"""Draws the pictures of docs/architecture.md: the layers of the package, and the way of the data through it.

python docs/pictures/architecture.py    # make docs; a test compares the pictures with those that are committed

layers.svg is drawn from the contract in pyproject.toml that the import linter checks.
"""

from __future__ import annotations

import tomllib
from collections.abc import Sequence
from html import escape
from pathlib import Path

FOLDER = Path(__file__).resolve().parent
REPOSITORY = FOLDER.parents[1]
# What each module or package at the top level does, in at most two lines.
SUBJECTS = {
    "__main__": ("starts the command line",),
    "cli": ("streams and exit codes",),
    "commands": ("one file a command:", "parse, call, render"),
    "api": ("the public functions, one file a verb",),
    "gating": ("limits on models in CI",),
    "reporting": ("the HTML page about runs",),
    "scaling": ("NeuralScale: widths for any size of an architecture",),
    "search": ("NetAdapt: proposals, workers, budgets, run directory",),
    "profilers": ("latency tables: devices, timing,", "providers, prediction"),
    "training": ("the graph in PyTorch, operators,", "distillation, fine-tuning"),
    "data": ("samples, labels, tasks, metrics; scores a model with onnxruntime",),
    "surgery": ("labels, rules, groups, resizing, criteria, reconstruction, proof",),
    "graph": ("ONNX files: checked, rewritten by passes, shapes, cost; no word of pruning",),
    "common": ("budgets, atomic files, JSON, configuration, progress, charts, escaping",),
    "errors": ("the one exception",),
}
# Steps of the work with the module or package that does them.
PRUNE = (
    ("Read the file and check every field", "graph/model.py, graph/validity.py"),
    ("Normalise the graph, fold constants", "graph/passes/, graph/fold_shapes.py"),
    ("Propagate labels, form groups", "surgery/trace.py, surgery/rules/"),
    ("Score the channels of each group", "surgery/criteria/"),
    ("Choose how many channels stay", "surgery/kept_counts.py"),
    ("Cut every tensor and number", "surgery/resize.py"),
    ("Prove that pruned equals masked", "surgery/verify/"),
    ("Solve the consumers by least squares", "surgery/reconstruct/"),
    ("Write the file, open it in onnxruntime", "graph/loadable.py"),
)
ITERATION = (
    ("Set the resource target of the iteration", "search/schedule.py"),
    ("Propose a narrower width for every group", "search/proposals.py"),
    ("Predict latencies with the table", "profilers/table/predict.py"),
    ("Hand those that could win to workers", "search/executors/"),
    ("Cut, reconstruct or train, score", "search/worker.py"),
    ("Accept the best accuracy per saving", "search/netadapt.py"),
    ("Prove the winner, score it on all samples", "search/candidates.py"),
    ("Measure it on the device, correct the table", "search/budget_check/check.py"),
    ("Write journal, history and model", "search/run_directory/"),
)
WIDTH, MARGIN, GAP = 760, 16, 10


def layers() -> str:
    """The layers of the package, the highest first, as SVG."""
    parts: list[str] = []
    y = MARGIN
    for row in _contract():
        height = 30 + 16 * max(len(SUBJECTS[name]) for name in row)
        width = (WIDTH - 2 * MARGIN - GAP * (len(row) - 1)) / len(row)
        for i, name in enumerate(row):
            x = MARGIN + i * (width + GAP)
            parts.append(_box(x, y, width, height))
            parts.append(
                _text(x + 12, y + 20, name if name in ("cli", "errors", "__main__") else f"{name}/", bold=True)
            )
            parts += [_text(x + 12, y + 38 + 16 * j, line) for j, line in enumerate(SUBJECTS[name])]
        y += height + GAP
    return _svg("The layers of the package: imports point down only", y - GAP + MARGIN, parts)


def _contract() -> list[list[str]]:
    """The rows of modules that the import linter's contract names; underscored helper modules are left out."""
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text(encoding="utf-8"))
    contracts = project["tool"]["importlinter"]["contracts"]
    (contract,) = [c for c in contracts if c["type"] == "layers" and c.get("containers") == ["netadapt_onnx"]]
    rows = [layer.replace(":", "|").split("|") for layer in contract["layers"]]
    names = [[name.strip(" ()") for name in row] for row in rows]
    return [[name for name in row if name in SUBJECTS or not name.startswith("_")] for row in names]


def dataflow() -> str:
    """The steps of `prune`, and those of one iteration of `adapt`, as SVG."""
    width = (WIDTH - 3 * MARGIN) / 2
    parts: list[str] = []
    for i, (title, steps) in enumerate((("prune", PRUNE), ("one iteration of adapt", ITERATION))):
        x = MARGIN + i * (width + MARGIN)
        parts.append(_text(x, MARGIN + 14, title, bold=True))
        for j, (step, place) in enumerate(steps):
            y = MARGIN + 26 + j * 62
            if j:
                parts.append(_arrow(x + width / 2, y - 16, y - 2))
            parts += [_box(x, y, width, 44), _text(x + 12, y + 19, step), _text(x + 12, y + 36, place, quiet=True)]
    bottom = MARGIN + 26 + 62 * len(ITERATION)
    x = 2 * MARGIN + width
    parts.append(_text(x, bottom + 2, "until every budget holds; then the final training", quiet=True))
    return _svg("The way of a model through prune, and through one iteration of adapt", bottom + 20, parts)


def _box(x: float, y: float, width: float, height: float) -> str:
    return f'<rect x="{x:g}" y="{y:g}" width="{width:g}" height="{height:g}" rx="6" fill="#f4f5f7" stroke="#b7bcc4"/>'


def _text(x: float, y: float, text: str, *, bold: bool = False, quiet: bool = False) -> str:
    style = ' font-weight="600"' if bold else ' fill="#5b6270"' if quiet else ""
    return f'<text x="{x:g}" y="{y:g}"{style}>{escape(text)}</text>'


def _arrow(x: float, top: float, bottom: float) -> str:
    head = f"M{x - 4:g} {bottom - 6:g} L{x:g} {bottom:g} L{x + 4:g} {bottom - 6:g}"
    return f'<path d="M{x:g} {top:g} L{x:g} {bottom:g} {head}" fill="none" stroke="#5b6270"/>'


def _svg(label: str, height: float, parts: Sequence[str]) -> str:
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height:g}" width="{WIDTH}" '
            f'height="{height:g}" role="img" aria-label="{escape(label)}">',
            f'<rect width="{WIDTH}" height="{height:g}" rx="10" fill="#ffffff"/>',
            '<g font-family="sans-serif" font-size="13" fill="#1c1f23">',
            *parts,
            "</g>",
            "</svg>\n",
        ]
    )


PICTURES = {"layers.svg": layers, "dataflow.svg": dataflow}

if __name__ == "__main__":
    for name, draw in PICTURES.items():
        (FOLDER / name).write_text(draw(), encoding="utf-8")
