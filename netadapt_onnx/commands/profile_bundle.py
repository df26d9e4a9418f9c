"""`netadapt-onnx profile bundle` and `import`: measurements that a person carries to a device, and back."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from netadapt_onnx.api.options import BundleOptions
from netadapt_onnx.commands._declared import declared, keywords_of
from netadapt_onnx.commands._options import MODEL, OVERWRITE, common, data_options
from netadapt_onnx.commands._result import CommandResult
from netadapt_onnx.common import render

if TYPE_CHECKING:
    from netadapt_onnx.api.profile import BundleResult, ImportResult
    from netadapt_onnx.data.source import DataSource


@click.command("bundle")
@MODEL
@click.option("-o", "out", type=click.Path(path_type=Path), required=True, metavar="B.zip", help="The zip to write.")
@data_options(required=False, use="Inputs to calibrate --deploy int8 with")
@declared(BundleOptions)
@common
def bundle_command(model: Path, out: Path, data: DataSource | None, **options: Any) -> CommandResult:
    """Write a zip with versions of MODEL and a script that times them, for a device without a network.

    The device needs Python 3.8, numpy and onnxruntime 1.16 or newer. Unpack it there (into a folder called like the
    zip), run its run.sh (or run.bat), and carry its results.jsonl back to `netadapt-onnx profile import`.

    \b
    Example:  netadapt-onnx profile bundle model.onnx -o bundle.zip
    """
    with render.spinner("bundling"):
        from netadapt_onnx.api.profile import bundle

        result = bundle(model, out, data=data, **keywords_of(options))
    return CommandResult(result, _bundle_text)


def _bundle_text(result: BundleResult) -> str:
    shards = "" if result.shards == 1 else f" in {result.shards} shards (run.sh 1 to run.sh {result.shards})"
    return (
        f"{result.bundle}: {result.models} versions{shards}, {render.size(result.size_bytes)}\n"
        + "".join(f"{note}\n" for note in result.notes)
        + f"unpack it on the device, run {result.folder}/run.sh there and bring {result.folder}/results.jsonl back\n"
        + render.next_command("profile", "import", "results.jsonl", "--table", "device.jsonl")
    )


@click.command("import")
@click.argument("results", nargs=-1, required=True, type=click.Path(path_type=Path), metavar="RESULTS...")
@click.option("--table", type=click.Path(path_type=Path), required=True, help="The table to write.")
@OVERWRITE
@common
def import_command(results: tuple[Path, ...], table: Path, overwrite: bool) -> CommandResult:
    """Make a latency table of RESULTS, the results.jsonl that a bundle wrote; of all its shards and repetitions.

    Of several tables of one model and device it makes one, with the median of each cell, and names runs that disagree.

    \b
    Examples:  netadapt-onnx profile import results-1.jsonl results-2.jsonl --table device.jsonl
               netadapt-onnx profile import monday.jsonl tuesday.jsonl sunday.jsonl --table device.jsonl
    """
    with render.spinner("importing"):
        from netadapt_onnx.api.profile import import_results

        result = import_results(results, table, overwrite=overwrite)
    return CommandResult(result, _import_text)


def _import_text(result: ImportResult) -> str:
    cpu, version = (result.device.get(key, "unknown") for key in ("cpu", "onnxruntime"))
    text = f"{result.table}: {result.cells} cells measured on {cpu}, onnxruntime {version}"
    options = ("--data", "DATA.npz", "--budget", "latency=0.7x", "--table", result.table, "-o", "run")
    return "\n".join([text, *result.notes, render.next_command("adapt", "MODEL.onnx", *options)])
