"""`gate` for people at a terminal. Lines start with our own words, never with a name."""

from __future__ import annotations

import click

from netadapt_onnx.common import render
from netadapt_onnx.common.escape import escape_lines
from netadapt_onnx.gating.formats import cells
from netadapt_onnx.gating.formats.escape_names import printable
from netadapt_onnx.gating.result import Gate, ModelResult

_COLOURS = {"ok": "green", "FAIL": "red", "ERROR": "yellow"}


def text(gate: Gate, *, colour: bool = False) -> str:
    """Format a table of all checks, then what failed and why; nothing where only errors are."""
    if all(model.error is not None and not model.checks for model in gate.models):
        return ""
    rows = [row for model in gate.models for row in _rows(model, colour)]
    parts = [render.table(rows, ["", "model", "limit", "value", "at most"], text_columns=3)] if rows else []
    parts += [reasons for model in gate.models if not model.ok for reasons in [_reasons(model)]]
    if gate.baseline is not None:
        parts.append(f"wrote the baseline {printable(gate.baseline)}")
    parts.append(cells.headline(gate))
    return escape_lines("\n\n".join(parts), colours=colour)


def _rows(model: ModelResult, colour: bool) -> list[list[str]]:
    path = printable(model.path)
    if model.error is not None and not model.checks:
        return [[_painted("ERROR", colour), path, "", "", ""]]
    return [[_painted(cells.state(c), colour), path, c.limit, *cells.amounts(c)] for c in model.checks]


def _reasons(model: ModelResult) -> str:
    lines = [f"in {printable(model.path)}:"]
    if model.error is not None and not model.checks:
        lines.append(f"  {printable(model.error.message, 600)}")
    lines += [f"  {printable(check.message, 600)}" for check in model.checks if not check.ok]
    if model.blame:
        rows = [["  by", printable(blame.layer), printable(blame.op), cells.growth(blame)] for blame in model.blame]
        lines.append(render.plain(rows))
    advice = dict.fromkeys(check.advice for check in model.checks if not check.ok and check.advice)
    lines += [f"  {printable(line, 600)}" for line in advice]
    return "\n".join(lines)


def _painted(word: str, colour: bool) -> str:
    return click.style(word, fg=_COLOURS[word], bold=word != "ok") if colour else word
