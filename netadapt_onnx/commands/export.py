"""`netadapt-onnx export`: a PyTorch module to ONNX, fit for adapting."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from netadapt_onnx.commands._options import OVERWRITE, SHAPE, common
from netadapt_onnx.commands._result import CommandResult
from netadapt_onnx.common import render

if TYPE_CHECKING:
    from netadapt_onnx.api.export import ExportResult


@click.command("export")
@click.argument("factory", metavar="FILE.py:FUNCTION")
@click.option("-o", "output", type=click.Path(path_type=Path), required=True, help="Write the ONNX model to this file.")
@click.option(
    "--exporter",
    type=click.Choice(["dynamo", "legacy"]),
    default="dynamo",
    show_default=True,
    help="The exporter of PyTorch; legacy is the one of TorchScript.",
)
@click.option(
    "--opset", type=click.IntRange(min=7), help="Version of the ONNX operator set.  [default: the exporter's]"
)
@OVERWRITE
@SHAPE
@common
def command(factory: str, output: Path, **options: Any) -> CommandResult:
    """Export a PyTorch module to ONNX. FUNCTION in FILE.py returns the module and its example inputs: (module, inputs).

    A function that returns the module alone needs the shapes of its inputs: --shape NAME=1x3x224x224.

    \b
    Example:  netadapt-onnx export net.py:make -o net.onnx
    """
    with render.spinner("exporting"):
        from netadapt_onnx.api.export import export

        result = export(factory, output, **options)
    return CommandResult(result, _text)


def _text(result: ExportResult) -> str:
    batch = "a dynamic batch" if result.dynamic_batch else "a fixed batch: torch could not export a dynamic one"
    return (
        f"wrote {result.model}: {render.count(result.params)} parameters, {batch}; onnxruntime agrees with torch "
        f"(largest relative difference {result.max_rel_diff:.2g})\n" + render.next_command("inspect", result.model)
    )
