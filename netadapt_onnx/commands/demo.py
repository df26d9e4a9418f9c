"""`netadapt-onnx demo`: the whole job without a file of your own."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import click

from netadapt_onnx.commands._next import again, interruptible
from netadapt_onnx.commands._options import OVERWRITE, common
from netadapt_onnx.commands._result import CommandResult
from netadapt_onnx.common import render
from netadapt_onnx.common.escape import shell_command


@click.command("demo")
@click.option(
    "-o",
    "folder",
    type=click.Path(path_type=Path),
    default=Path("netadapt-demo"),
    show_default=True,
    help="The folder for the model, the data, the latency table and the run.",
)
@OVERWRITE
@common
def command(folder: Path, overwrite: bool) -> CommandResult:
    """Train a small network on handwritten digits, profile this machine, and adapt the network to 0.6x of its latency.

    Takes one to three minutes and downloads nothing.

    \b
    Example:  netadapt-onnx demo -o netadapt-demo
    """
    from netadapt_onnx.api.demo import DATA, MODEL, TABLE, demo
    from netadapt_onnx.api.report import write_report
    from netadapt_onnx.commands._adapt_text import result_text
    from netadapt_onnx.commands.adapt import answered, split_of
    from netadapt_onnx.data.source import DataSource

    go_on = again("--overwrite")
    with interruptible(lambda: f"begin again with `{go_on}`"), render.progress_bar("the demo") as log:
        result = demo(folder, overwrite=overwrite, log=log)
        result = replace(result, notes=(*result.notes, *write_report(result.model.parent)))
    examples = [
        ("inspect", folder / MODEL, "--table", folder / TABLE),
        ("prune", folder / MODEL, "--ratio", 0.5, "--verify"),
        ("adapt", folder / MODEL, "--data", folder / DATA, "--budget", "macs=0.3x", "-o", folder / "run2"),
    ]
    lines = "\n".join(f"      {shell_command(['netadapt-onnx', *words])}" for words in examples)
    run, model = result.model.parent, folder / MODEL
    words = [model, result.model, *DataSource(str(folder / DATA)).flags, *split_of(result)]
    first = shell_command(["netadapt-onnx", "evaluate", *words])
    return answered(
        result,
        lambda shown: result_text(shown, run, model, f"{first}\n{lines}"),
        f"when the machine is quiet, run it again with `{go_on}`",
    )
