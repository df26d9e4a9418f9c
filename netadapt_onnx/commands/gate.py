"""`netadapt-onnx gate`: fail where a model is larger, slower or less accurate than agreed."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from netadapt_onnx.api.options import GateOptions
from netadapt_onnx.commands._declared import by_name, declared, keywords_of
from netadapt_onnx.commands._options import SANDBOX, common, data_options, seen_as
from netadapt_onnx.commands._result import CommandResult
from netadapt_onnx.common import render

if TYPE_CHECKING:
    from netadapt_onnx.data.source import DataSource
    from netadapt_onnx.gating.result import Gate

FORMATS = ("text", "json", "github", "junit", "markdown")


def _output(text: str) -> tuple[str, Path]:
    form, equals, file = text.partition("=")
    if not equals or form not in FORMATS or not file:
        raise click.BadParameter(f"'{text}' is not FORMAT=FILE with one of {', '.join(FORMATS)}")
    return form, Path(file)


@click.command("gate")
@click.argument("models", nargs=-1, metavar="[MODEL|FOLDER|PATTERN]...")
@data_options(required=False, use="Held-out samples to measure the accuracy on (no FILE.py: gate runs no code)")
@declared(GateOptions, SANDBOX)
@click.option(
    "--format",
    "form",
    type=click.Choice(FORMATS),
    default="text",
    help="The format of the report on stdout.  [default: text]",
)
@click.option(
    "--output",
    multiple=True,
    callback=by_name(_output),
    metavar="FORMAT=FILE",
    help="Also write a report to a file; may be repeated.",
)
@click.option("--overwrite", is_flag=True, help="Replace existing reports.")
@common
def command(
    models: tuple[str, ...],
    data: DataSource | None,
    form: str,
    output: dict[str, Path],
    overwrite: bool,
    **options: Any,
) -> CommandResult:
    """Check models against limits, given as options or in the configuration ([[gate]] in netadapt.toml,
    [[tool.netadapt-onnx.gate]] in pyproject.toml). A folder stands for the models in it.

    Exit codes: 0: every limit is met, 1: a limit is exceeded, 2: error, or something could not be checked. Models are
    read in a process of their own. They are run only where a latency or an accuracy is limited.

    \b
    Examples:  netadapt-onnx gate
               netadapt-onnx gate model.onnx --max size=4MB --max macs=300M
               netadapt-onnx gate model.onnx --max-increase size=2% --baseline git:main
               netadapt-onnx gate model.onnx --update-baseline
    """
    from netadapt_onnx.api.gate import gate
    from netadapt_onnx.gating.reports import refuse, report, write

    refuse(output, overwrite)
    with render.progress_bar("checking"):
        result = gate(models, data=data, **keywords_of(options))
    write(result, output, (form, *output))
    seen = seen_as(options["shapes"], options["batch_size"])
    config = [] if options["config"] is None else ["--config", options["config"]]
    follow = _follow(result, [*models, *config], options["baseline"], seen) if form == "text" else ""
    return CommandResult(
        result, lambda _: report(result, form) + follow, ok=result.ok, error=result.error, is_escaped=True
    )


def _follow(result: Gate, named: Sequence[object], baseline: str | None, seen: Sequence[str]) -> str:
    """Where a limit is exceeded, what the model consists of; else how models are compared with a baseline from now on.

    `named` are the words by which the command named models; where models were compared with a record and kept their
    limits, nothing is left to do.
    """
    if not result.models or result.error:
        return ""
    from netadapt_onnx.gating.baseline import is_record

    first = result.models[0]
    worst = next((check for check in first.failures), None)
    is_other_model = baseline is not None and not is_record(baseline)
    record = [] if baseline is None or is_other_model else ["--baseline", baseline]
    if worst is not None:
        words = (
            ["diff", baseline, first.path] if worst.baseline is not None and is_other_model else ["inspect", first.path]
        )
    elif result.baseline is not None:
        words = ["gate", *named, *record, "--max-increase", "size=2%"]
    elif is_other_model or not any(check.baseline is not None for model in result.models for check in model.checks):
        words = ["gate", *named, *record, "--update-baseline"]
    else:
        return ""
    return "\n" + render.next_command(*words, *seen)
