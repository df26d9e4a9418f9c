"""`netadapt-onnx inspect`: what a model costs and which of its channels can go."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import click

from netadapt_onnx.commands.answer import Answer
from netadapt_onnx.commands.options import MODEL, common, shaped

if TYPE_CHECKING:
    from netadapt_onnx.inspection import Inspection


@click.command("inspect", short_help="Show what a model costs and which of its channels can go.")
@MODEL
@click.option("--table", type=click.Path(path_type=Path), help="Latency table: predict the latency too.")
@shaped
@common
def command(model: Path, table: Path | None, shapes: dict[str, tuple[int, ...]], batch_size: int) -> Answer:
    """Show what MODEL costs, layer by layer, and its groups: the channels that are pruned as one decision.

    \b
    Example:  netadapt-onnx inspect model.onnx
    """
    from netadapt_onnx.inspection import inspect

    result = inspect(model, table=table, shapes=shapes, batch_size=batch_size)
    return Answer(result, lambda: _text(result, model))


def _text(result: Inspection, model: Path) -> str:
    from netadapt_onnx import render

    totals = render.table(render.cost_rows(asdict(result.model)))
    layers = render.table(
        [[c.name, c.op, render.count(c.params), render.count(c.macs), c.group or ""] for c in result.layers],
        ["layer", "op", "params", "macs", "group"],
    )
    groups = render.table(
        [
            [g.name, g.channels, g.step, g.floor, len(g.layers), "" if g.prunable else f"no: {g.reason}"]
            for g in result.groups
        ],
        ["group", "channels", "step", "floor", "layers", "prunable"],
    )
    able = sum(g.prunable for g in result.groups)
    return (
        f"{totals}\n\n{layers}\n\n{groups}\n\n{able} of {len(result.groups)} groups can be pruned\n"
        f"next: netadapt-onnx prune {model} --ratio 0.5"
    )
