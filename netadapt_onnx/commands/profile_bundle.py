"""`netadapt-onnx profile bundle`: measurements to be carried to a device that only a person can reach."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from netadapt_onnx.api.options import BundleOptions
from netadapt_onnx.commands._declared import declared, keywords_of
from netadapt_onnx.commands._options import MODEL, common, data_options
from netadapt_onnx.commands._result import CommandResult
from netadapt_onnx.common import render

if TYPE_CHECKING:
    from netadapt_onnx.api.profile import BundleResult
    from netadapt_onnx.data.source import DataSource


@click.command("bundle")
@MODEL
@click.option("-o", "out", type=click.Path(path_type=Path), required=True, metavar="B.zip", help="The zip to write.")
@data_options(required=False, use="Inputs to calibrate --deploy int8 with")
@declared(BundleOptions)
@common
def command(model: Path, out: Path, data: DataSource | None, **options: Any) -> CommandResult:
    """Write a zip with versions of MODEL and a script that times them, for a device without a network.

    The device needs Python 3.8, numpy and onnxruntime 1.16 or newer. Unpack it there (into a folder called like the
    zip), run its run.sh (or run.bat), and carry its results.jsonl back to `netadapt-onnx profile import`.

    \b
    Example:  netadapt-onnx profile bundle model.onnx -o bundle.zip
    """
    with render.spinner("bundling"):
        from netadapt_onnx.api.profile import bundle

        result = bundle(model, out, data=data, **keywords_of(options))
    return CommandResult(result, _text)


def _text(result: BundleResult) -> str:
    shards = "" if result.shards == 1 else f" in {result.shards} shards (run.sh 1 to run.sh {result.shards})"
    return (
        f"{result.bundle}: {result.models} versions{shards}, {render.size(result.size_bytes)}\n"
        + "".join(f"{note}\n" for note in result.notes)
        + f"unpack it on the device, run {result.folder}/run.sh there and bring {result.folder}/results.jsonl back\n"
        + render.next_command("profile", "import", "results.jsonl", "--table", "device.jsonl")
    )
