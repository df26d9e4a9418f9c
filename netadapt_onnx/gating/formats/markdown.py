"""`gate` as Markdown: for a step summary, a wiki or a merge request."""

from __future__ import annotations

from netadapt_onnx.common import render
from netadapt_onnx.gating.formats import cells
from netadapt_onnx.gating.formats.escape_names import code, prose
from netadapt_onnx.gating.result import Gate, ModelResult

_MARKS = {"ok": "✅", "FAIL": "❌ too much", "ERROR": "⚠️ not checked"}


def markdown(gate: Gate) -> str:
    """Format a heading, a table of all checks, and what failed and why."""
    rows = cells.rows(gate, _MARKS.__getitem__, code)
    parts = [f"### Model limits: {cells.headline(gate)}"]
    if rows:
        parts.append(render.markdown(rows, ["", "model", "limit", "value", "allowed"]))
    parts += [part for model in gate.models if model.excesses for part in _excesses(model)]
    for reason, paths in cells.obstacles(gate).items():
        parts.append(f"**not checked in {cells.listed(paths, code)}**\n\n- {prose(reason)}")
    return "\n\n".join(parts) + "\n"


def _excesses(model: ModelResult) -> list[str]:
    reasons = [f"- {prose(reason)}" for reason in (*model.excesses, *model.advice)]
    parts = ["\n".join([f"**{code(model.path)}**", "", *reasons])]
    if model.blame:
        rows = [[code(blame.layer), code(blame.op), cells.growth(blame)] for blame in model.blame]
        parts.append(render.markdown(rows, [cells.blame_title(model), "operator", "size"]))
    return parts
