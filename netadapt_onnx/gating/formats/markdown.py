"""`gate` as Markdown: for a step summary, a wiki or a merge request."""

from __future__ import annotations

from netadapt_onnx.common import render
from netadapt_onnx.gating.formats import cells
from netadapt_onnx.gating.formats.escape_names import code, prose
from netadapt_onnx.gating.result import Gate, ModelResult

_MARKS = {"ok": "✅", "FAIL": "❌ too much", "ERROR": "⚠️ not judged"}


def markdown(gate: Gate) -> str:
    """Format a heading, a table of all checks, and what failed and why."""
    rows = [row for model in gate.models for row in _rows(model)]
    parts = [f"### Model limits: {cells.headline(gate)}"]
    if rows:
        parts.append(render.markdown(rows, ["", "model", "limit", "value", "at most"]))
    parts += [reason for model in gate.models if not model.ok for reason in _reasons(model)]
    return "\n\n".join(parts) + "\n"


def _rows(model: ModelResult) -> list[list[str]]:
    path = code(model.path)
    if model.error is not None and not model.checks:
        return [[_MARKS["ERROR"], path, "", "", ""]]
    return [[_MARKS[cells.state(c)], path, c.limit, *cells.amounts(c)] for c in model.checks]


def _reasons(model: ModelResult) -> list[str]:
    lines = [f"**{code(model.path)}**", ""]
    if model.error is not None and not model.checks:
        lines.append(f"- {prose(model.error.message)}")
    lines += [f"- {prose(check.message)}" for check in model.checks if not check.ok]
    lines += [f"- {prose(advice)}" for advice in dict.fromkeys(c.advice for c in model.checks if not c.ok and c.advice)]
    parts = ["\n".join(lines)]
    if model.blame:
        rows = [[code(blame.layer), code(blame.op), cells.growth(blame)] for blame in model.blame]
        parts.append(render.markdown(rows, ["layer to blame", "operator", "what it did"]))
    return parts
