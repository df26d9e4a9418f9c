"""`netadapt-onnx inspect`: what a model costs and which of its channels can go."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import click

from netadapt_onnx.commands.answer import Answer
from netadapt_onnx.commands.options import MODEL, OVERWRITE, chosen, common, shaped

if TYPE_CHECKING:
    from netadapt_onnx.inspection import Inspection
    from netadapt_onnx.surgery import Explanation


@click.command("inspect", short_help="Show what a model costs and which of its channels can go.")
@MODEL
@click.option("--table", type=click.Path(path_type=Path), help="Latency table: predict the latency too.")
@click.option("--explain", "explained", metavar="NAME", help="Show what a group, layer or tensor is tied to.")
@click.option("--write-plan", type=click.Path(path_type=Path), help="Write a plan of every group, to edit for prune.")
@chosen
@OVERWRITE
@shaped
@common
def command(
    model: Path,
    table: Path | None,
    explained: str | None,
    write_plan: Path | None,
    attention: Literal["heads", "dims"],
    resize_io: tuple[str, ...],
    overwrite: bool,
    shapes: dict[str, tuple[int, ...]],
    batch_size: int,
) -> Answer:
    """Show what MODEL costs, layer by layer, and its groups: the channels that are pruned as one decision.

    \b
    Examples:  netadapt-onnx inspect model.onnx
               netadapt-onnx inspect model.onnx --explain conv1
               netadapt-onnx inspect model.onnx --write-plan plan.toml
    """
    from netadapt_onnx.inspection import Explained, inspect
    from netadapt_onnx.surgery import Choices

    result = inspect(
        model,
        table=table,
        explained=explained,
        write_plan=write_plan,
        choices=Choices(attention, resize_io),
        shapes=shapes,
        batch_size=batch_size,
        overwrite=overwrite,
    )
    return Answer(
        result, lambda: _explanation(result.explain) if isinstance(result, Explained) else _text(result, model)
    )


def _explanation(explained: tuple[Explanation, ...]) -> str:
    from netadapt_onnx import render

    parts = []
    for found in explained:
        group = found.group
        state = "can be pruned" if group.prunable else f"cannot be pruned: {group.reason}"
        parts.append(
            f"group {group.name}: {group.channels} channels in steps of {group.step}, at least {group.floor}; {state}\n"
            f"layers: {', '.join(group.layers)}"
        )
        rows = [[p.tensor, p.axis, f"{p.positions} of {p.length}"] for p in found.constants]
        parts.append(render.table(rows, ["constant", "axis", "positions"]))
        rows = [[p.tensor, p.axis, f"{p.positions} of {p.length}"] for p in found.tensors]
        parts.append(render.table(rows, ["tensor", "axis", "positions"]))
        parts.extend(f"pinned: {reason}" for reason in found.pins)
    return "\n\n".join(parts)


def _text(result: Inspection, model: Path) -> str:
    from netadapt_onnx import render

    totals = render.table(render.cost_rows(asdict(result.model)))
    timed = result.model.latency_ms is not None
    layers = render.table(
        [
            [c.name, c.op, render.count(c.params), render.count(c.macs)]
            + [render.milliseconds(c.latency_ms) if c.latency_ms is not None else ""] * timed
            + [c.group or ""]
            for c in result.layers
        ],
        ["layer", "op", "params", "macs", *["latency"] * timed, "group"],
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
        + render.next_command("prune", model, "--ratio", "0.5")
    )
