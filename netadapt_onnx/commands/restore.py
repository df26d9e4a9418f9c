"""`netadapt-onnx restore`: the model of any iteration of a run."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from netadapt_onnx.commands._options import OVERWRITE, common
from netadapt_onnx.commands._result import CommandResult
from netadapt_onnx.common import render
from netadapt_onnx.search.run_directory.file_names import MODEL_FILE

if TYPE_CHECKING:
    from netadapt_onnx.api.restore import Restored


@click.command("restore")
@click.argument("run", type=click.Path(path_type=Path), metavar="RUN")
@click.option(
    "--iteration", type=click.IntRange(min=1), required=True, help="Number of the iteration, as in the report."
)
@click.option("-o", "output", type=click.Path(path_type=Path), required=True, help="Write the model to this file.")
@OVERWRITE
@common
def command(run: Path, iteration: int, output: Path, overwrite: bool) -> CommandResult:
    """Write the model of any iteration of RUN, such as a larger and more accurate one, as it was before fine-tuning.

    \b
    Example:   netadapt-onnx restore run --iteration 4 -o larger.onnx
    """
    with render.spinner("restoring"):
        from netadapt_onnx.api.restore import restore

        result = restore(run, iteration, output, overwrite=overwrite)
    final = run / MODEL_FILE
    words = ["diff", final, output] if final.exists() else ["inspect", output]
    return CommandResult(result, lambda shown: _text(shown, render.next_command(*words)))


def _text(result: Restored, follow: str) -> str:
    rows = [[name, width] for name, width in result.widths.items()]
    text = (
        f"iteration {result.iteration}: {render.percent(result.accuracy)} on held-out samples, before fine-tuning\n"
        f"wrote {result.model}; its plan is {result.plan}"
    )
    return f"{render.table(rows, ['group', 'channels'])}\n\n{text}\n{follow}"
