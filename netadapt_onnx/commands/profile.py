"""`netadapt-onnx profile`: a latency table of this machine."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from netadapt_onnx.commands.answer import Answer
from netadapt_onnx.commands.options import EP, MODEL, SEED, THREADS, common, shaped

if TYPE_CHECKING:
    from netadapt_onnx.profiling import ProfileResult


@click.command("profile", short_help="Measure this machine: build a latency table for a model.")
@MODEL
@click.option("--table", type=click.Path(path_type=Path), required=True, help="The table; an unfinished one goes on.")
@EP
@THREADS
@click.option(
    "--validate",
    "held_out",
    type=click.IntRange(min=0),
    default=0,
    metavar="N",
    help="Then time N other widths and compare with the prediction.",
)
@SEED
@click.option("--overwrite", is_flag=True, help="Measure anew even if the table exists.")
@shaped
@common
def command(
    model: Path,
    table: Path,
    ep: str,
    threads: int,
    held_out: int,
    seed: int,
    overwrite: bool,
    shapes: dict[str, tuple[int, ...]],
    batch_size: int,
) -> Answer:
    """Time random-width versions of MODEL on this machine and write a table that predicts the latency of any width.

    \b
    Example:  netadapt-onnx profile model.onnx --table cpu.jsonl --validate 10
    """
    from netadapt_onnx import render
    from netadapt_onnx.profiling import profile

    with render.followed("profiling") as seen:
        result = profile(
            model,
            table,
            ep=ep,
            threads=threads,
            held_out=held_out,
            seed=seed,
            shapes=shapes,
            batch_size=batch_size,
            overwrite=overwrite,
            progress=seen.progress,
        )
    return Answer(result, lambda: _text(result, model))


def _text(result: ProfileResult, model: Path) -> str:
    from netadapt_onnx import render

    low, high = result.latency_ms.ci95
    lines = [
        f"{result.table}: {result.cells} cells in {result.seconds:.0f} s on {result.device['cpu']}, "
        f"{result.device['ep']}, threads: {result.device['threads']}",
        f"the model takes {render.milliseconds(result.latency_ms.median)} (95%: {low:.3g} to {high:.3g} ms)",
    ]
    if result.validation is not None:
        v = result.validation
        lines.append(
            f"{v.n} unseen widths predicted within {render.percent(v.mape)} on average, 95% of them within "
            f"{render.percent(v.p95)}, the worst {render.percent(v.max)}; fresh sessions of one model differ by "
            f"{render.percent(v.repeatability)}"
        )
    options = ("--data", "DATA.npz", "--budget", "latency=0.7x", "--table", result.table, "-o", "run")
    lines.append(render.next_command("adapt", model, *options))
    return "\n".join(lines)
