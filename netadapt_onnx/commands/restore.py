"""`netadapt-onnx restore`: the model of any iteration of a run."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from netadapt_onnx.commands._options import OVERWRITE, common
from netadapt_onnx.commands._result import CommandResult
from netadapt_onnx.common import render

if TYPE_CHECKING:
    from netadapt_onnx.api.restore import Restored


@click.command("restore")
@click.argument("run", type=click.Path(path_type=Path), metavar="RUN")
@click.option("--iteration", type=click.IntRange(min=1), required=True, help="Its number in RUN/history.jsonl.")
@click.option("-o", "output", type=click.Path(path_type=Path), required=True, help="Write the model here.")
@OVERWRITE
@common
def command(run: Path, iteration: int, output: Path, overwrite: bool) -> CommandResult:
    """Write the model that the search of RUN had after an iteration, without the final training.

    \b
    Example:   netadapt-onnx restore run --iteration 4 -o larger.onnx
    """
    with render.spinner("restoring"):
        from netadapt_onnx.api.restore import restore

        result = restore(run, iteration, output, overwrite=overwrite)
    return CommandResult(result, _text)


def _text(result: Restored) -> str:
    rows = [[name, width] for name, width in result.widths.items()]
    text = f"iteration {result.iteration}: {render.percent(result.accuracy)} on held-out samples\nwrote {result.model}"
    follow = render.next_command("prune", "ORIGINAL.onnx", "--plan", result.plan, "-o", "again.onnx")
    return f"{render.table(rows, ['group', 'channels'])}\n\n{text}\n{follow}"
