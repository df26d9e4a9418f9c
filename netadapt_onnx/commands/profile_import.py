"""`netadapt-onnx profile import`: a latency table of what a bundle has measured elsewhere."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from netadapt_onnx.commands._options import OVERWRITE, common
from netadapt_onnx.commands._result import CommandResult
from netadapt_onnx.common import render

if TYPE_CHECKING:
    from netadapt_onnx.api.profile import ImportResult


@click.command("import")
@click.argument("results", nargs=-1, required=True, type=click.Path(path_type=Path), metavar="RESULTS...")
@click.option("--table", type=click.Path(path_type=Path), required=True, help="The table to write.")
@OVERWRITE
@common
def command(results: tuple[Path, ...], table: Path, overwrite: bool) -> CommandResult:
    """Make a latency table of RESULTS, the results.jsonl that a bundle wrote; of all its shards and repetitions.

    Of several tables of one model and device it makes one, with the median of each cell, and names runs that disagree.

    \b
    Examples:  netadapt-onnx profile import results-1.jsonl results-2.jsonl --table device.jsonl
               netadapt-onnx profile import monday.jsonl tuesday.jsonl sunday.jsonl --table device.jsonl
    """
    with render.spinner("importing"):
        from netadapt_onnx.api.profile import import_results

        result = import_results(results, table, overwrite=overwrite)
    return CommandResult(result, _text)


def _text(result: ImportResult) -> str:
    cpu, version = (result.device.get(key, "unknown") for key in ("cpu", "onnxruntime"))
    text = f"{result.table}: {result.cells} cells measured on {cpu}, onnxruntime {version}"
    options = ("--data", "DATA.npz", "--budget", "latency=0.7x", "--table", result.table, "-o", "run")
    return "\n".join([text, *result.notes, render.next_command("adapt", "MODEL.onnx", *options)])
