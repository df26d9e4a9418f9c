"""`netadapt-onnx report`: runs explained in one HTML file."""

from __future__ import annotations

from pathlib import Path

import click

from netadapt_onnx.commands._options import OVERWRITE, common
from netadapt_onnx.commands._result import CommandResult
from netadapt_onnx.common import render


@click.command("report")
@click.argument("runs", nargs=-1, required=True, type=click.Path(path_type=Path), metavar="RUN...")
@click.option(
    "-o",
    "output",
    type=click.Path(path_type=Path),
    metavar="FILE.html",
    help="Write the page to this file.  [default: RUN/report.html]",
)
@click.option(
    "--interactive", is_flag=True, help="Make charts that show values under the mouse; adds a script of 0.9 MB."
)
@OVERWRITE
@common
def command(runs: tuple[Path, ...], output: Path | None, interactive: bool, overwrite: bool) -> CommandResult:
    """Write a page about each RUN of `adapt` or `scale`: its result, every model on the way, and how to repeat it.

    The page needs no network and runs no script. With several RUNs it compares their models in one chart.
    A RUN of `adapt` may still be running, or interrupted: the page shows what there is so far.

    \b
    Examples:  netadapt-onnx report run
               netadapt-onnx report run1 run2 -o compared.html
    """
    with render.spinner("drawing"):
        from netadapt_onnx.api.report import report

        result = report(runs, output, interactive=interactive, overwrite=overwrite)
    return CommandResult(
        result, lambda shown: "\n".join([*shown.notes, f"wrote {shown.report}", "next: open it in a browser"])
    )
