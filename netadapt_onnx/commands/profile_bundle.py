"""`netadapt-onnx profile bundle` and `import`: measurements that a person carries to a device, and back."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from netadapt_onnx.api.options import BundleOptions
from netadapt_onnx.commands._declared import declared, keywords_of
from netadapt_onnx.commands._next import unused_path
from netadapt_onnx.commands._options import MODEL, OVERWRITE, common, data_options
from netadapt_onnx.commands._result import CommandResult
from netadapt_onnx.common import render
from netadapt_onnx.common.escape import shell_command
from netadapt_onnx.common.headline import Change, phrase

if TYPE_CHECKING:
    from netadapt_onnx.api.profile import BundleResult, ComparisonResult, ImportResult
    from netadapt_onnx.data.source import DataSource


@click.command("bundle")
@MODEL
@click.option("-o", "out", type=click.Path(path_type=Path), required=True, metavar="B.zip", help="The zip to write.")
@data_options(required=False, use="Inputs to calibrate --deploy int8 with")
@declared(BundleOptions)
@common
def bundle_command(model: Path, out: Path, data: DataSource | None, **options: Any) -> CommandResult:
    """Write a zip with versions of MODEL and a script that times them, for a device without a network.

    The device needs Python 3.8, numpy and onnxruntime 1.16 or newer. Unpack the zip there (it makes a folder of the
    same name), run its run.sh (or run.bat), and bring its results.jsonl back to `netadapt-onnx profile import`.

    \b
    Examples:  netadapt-onnx profile bundle model.onnx -o bundle.zip
               netadapt-onnx profile bundle run/model.onnx --compare model.onnx -o compare.zip
    """
    with render.spinner("bundling"):
        from netadapt_onnx.api.profile import bundle

        result = bundle(model, out, data=data, **keywords_of(options))
    is_comparison = options["compare"] is not None
    return CommandResult(result, lambda shown: _bundle_text(shown, is_comparison))


def _bundle_text(result: BundleResult, is_comparison: bool) -> str:
    shards = "" if result.shards == 1 else f" in {result.shards} shards (run.sh 1 to run.sh {result.shards})"
    what = (
        "the model and the one that it is compared with"
        if is_comparison
        else f"{result.models} versions of the model{shards}"
    )
    results = f"{result.folder}/results.jsonl"
    table = [] if is_comparison else ["--table", unused_path(Path(f"{result.folder}.table.jsonl"))]
    return (
        f"{result.bundle}: {what}, {render.size(result.size_bytes)}\n"
        + "".join(f"{note}\n" for note in result.notes)
        + f"Unpack it on the device, run {result.folder}/run.sh there, and bring {results} back to this folder.\n"
        + render.next_command("profile", "import", results, *table)
    )


@click.command("import")
@click.argument("results", nargs=-1, required=True, type=click.Path(path_type=Path), metavar="RESULTS...")
@click.option(
    "--table",
    type=click.Path(path_type=Path),
    help="The table to write.  [required, except for results of a comparison]",
)
@OVERWRITE
@common
def import_command(results: tuple[Path, ...], table: Path | None, overwrite: bool) -> CommandResult:
    """Make a latency table of RESULTS, the results.jsonl that a bundle wrote; give those of all shards and repetitions.

    Results of a bundle with --compare are shown: how much faster one model is than the other on that device. Several
    tables of one model and device become one, with the median of each cell; runs that disagree are named.

    \b
    Examples:  netadapt-onnx profile import results-1.jsonl results-2.jsonl --table device.jsonl
               netadapt-onnx profile import monday.jsonl tuesday.jsonl sunday.jsonl --table device.jsonl
    """
    with render.spinner("importing"):
        from netadapt_onnx.api.profile import import_comparison, import_results
        from netadapt_onnx.profilers.bundle.compare import is_comparison

        if is_comparison(results[0]):
            if table is not None:
                raise click.UsageError("These results compare two models and make no table: leave --table out")
            return CommandResult(import_comparison(results), _comparison_text)
        if table is None:
            raise click.UsageError("Missing option '--table', the file to write")
        result = import_results(results, table, overwrite=overwrite)
    return CommandResult(result, _import_text)


def _comparison_text(result: ComparisonResult) -> str:
    change = Change("latency", result.original_latency_ms.median, result.latency_ms.median, result.ratio, result.ci95)
    low, high = result.ci95
    return (
        f"{result.model} is {phrase(change)} compared with {result.original}\n"
        f"Its latency is {result.ratio:.3f}x of the other's (95% interval: {low:.3f}x to {high:.3f}x), measured in "
        f"{result.sessions} fresh sessions each on {result.device.get('cpu', 'an unknown processor')}, onnxruntime "
        f"{result.device.get('onnxruntime', 'unknown')}"
    )


def _import_text(result: ImportResult) -> str:
    cpu, version = (result.device.get(key, "unknown") for key in ("cpu", "onnxruntime"))
    text = f"{result.table}: {result.cells} cells measured on {cpu}, onnxruntime {version}"
    use = (
        f"next: give adapt this table and its device: {shell_command(['--table', result.table, '--device', 'bundle'])}"
    )
    return "\n".join([text, *result.notes, use])
