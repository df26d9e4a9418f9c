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
@click.argument("models", nargs=-1, metavar="[MODEL|PATTERN]...")
@data_options(required=False, use="Held-out samples, for the accuracy (no FILE.py: gate runs no code)")
@declared(GateOptions, SANDBOX)
@click.option("--format", "form", type=click.Choice(FORMATS), default="text", help="What stdout gets.  [default: text]")
@click.option(
    "--output",
    multiple=True,
    callback=by_name(_output),
    metavar="FORMAT=FILE",
    help="Write a report too; may be repeated.",
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
    """Judge models against limits from the options or from [[tool.netadapt-onnx.gate]] in pyproject.toml.

    Exits with 0 if every limit is kept, 1 if one is not, 2 if something could not be judged. Models are read in a
    process of their own and, unless a latency or an accuracy is limited, never run.

    \b
    Examples:  netadapt-onnx gate
               netadapt-onnx gate model.onnx --max size=4MB --max macs=300M
               netadapt-onnx gate model.onnx --max-increase size=2% --baseline git:main
               netadapt-onnx gate model.onnx --update-baseline
    """
    from netadapt_onnx.api.gate import gate
    from netadapt_onnx.gating.reports import refuse, report, write

    refuse(output, overwrite)
    with render.progress_bar("judging"):
        result = gate(models, data=data, **keywords_of(options))
    write(result, output, (form, *output))
    seen = seen_as(options["shapes"], options["batch_size"])
    follow = _follow(result, options["baseline"], seen) if form == "text" else ""
    return CommandResult(
        result, lambda _: report(result, form) + follow, ok=result.ok, error=result.error, is_escaped=True
    )


def _follow(result: Gate, baseline: str | None, seen: Sequence[str]) -> str:
    """Where a limit is exceeded, what the model consists of; else how its numbers are kept for the next time."""
    paths = [str(model.path) for model in result.models]
    if not paths or result.error:
        return ""
    before = ["diff", baseline] if baseline is not None and baseline.startswith("git:") else ["inspect"]
    words = ["gate", *paths, "--update-baseline"] if result.ok else [*before, paths[0]]
    return "\n" + render.next_command(*words, *seen)
