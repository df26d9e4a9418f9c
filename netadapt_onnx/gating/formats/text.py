"""`gate` for people at a terminal. Lines start with our own words, never with a name."""

from __future__ import annotations

import click

from netadapt_onnx.common import render
from netadapt_onnx.common.escape import escape_lines
from netadapt_onnx.gating.formats import cells
from netadapt_onnx.gating.formats.escape_names import printable
from netadapt_onnx.gating.result import Gate, ModelResult
from netadapt_onnx.gating.settings import relative

_COLOURS = {"ok": "green", "FAIL": "red", "ERROR": "yellow"}


def text(gate: Gate, *, colour: bool = False, to_file: bool = False) -> str:
    """Format a table of all checks, then what failed and why; nothing where only errors are.

    What could not be checked is said once, however many models and limits it concerns; what the error line on stderr
    says is repeated in a file alone.
    """
    if all(model.unread for model in gate.models):
        return ""
    rows = cells.rows(gate, lambda word: _painted(word) if colour else word, printable)
    parts = [render.table(rows, ["", "model", "limit", "value", "allowed"], text_columns=3)] if rows else []
    parts += [_excesses(model) for model in gate.models if model.excesses]
    for reason, paths in list(cells.obstacles(gate).items())[0 if to_file else 1 :]:
        parts.append(f"not checked in {cells.listed(paths, printable)}:\n  {printable(reason, 600)}")
    if gate.baseline is not None:
        parts.append(f"wrote the baseline {printable(relative(gate.baseline))}")
    parts.append(cells.headline(gate))
    return escape_lines("\n\n".join(parts), colours=colour)


def _excesses(model: ModelResult) -> str:
    lines = [f"in {printable(model.path)}:", *(f"  {printable(reason, 600)}" for reason in model.excesses)]
    if model.blame:
        lines.append(f"  {cells.blame_title(model)}:")
        rows = [["   ", printable(blame.layer), printable(blame.op), cells.growth(blame)] for blame in model.blame]
        lines.append(render.plain(rows))
    return "\n".join([*lines, *(f"  {printable(advice, 600)}" for advice in model.advice)])


def _painted(word: str) -> str:
    return click.style(word, fg=_COLOURS[word], bold=word != "ok")
