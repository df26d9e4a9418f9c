"""`netadapt-onnx gate`: fail where a model is larger, slower or less accurate than agreed."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import click

from netadapt_onnx.commands._declared import once_each
from netadapt_onnx.commands._options import MEMORY_LIMIT, SHAPE, TIMEOUT, common, data_options, seen_as
from netadapt_onnx.commands._result import CommandResult

if TYPE_CHECKING:
    from netadapt_onnx.data.source import DataSource

FORMATS = ("text", "json", "github", "junit", "markdown")


def _outputs(_: click.Context, __: click.Parameter, given: tuple[str, ...]) -> dict[str, Path]:
    return once_each(_output(text) for text in given)


def _output(text: str) -> tuple[str, Path]:
    form, equals, file = text.partition("=")
    if not equals or form not in FORMATS or not file:
        raise click.BadParameter(f"'{text}' is not FORMAT=FILE with one of {', '.join(FORMATS)}")
    return form, Path(file)


@click.command("gate", short_help="Fail where models are larger, slower or less accurate than agreed.")
@click.argument("models", nargs=-1, metavar="[MODEL|PATTERN]...")
@click.option("--max", "maximum", multiple=True, metavar="size=4MB", help="What a resource may be; may be repeated.")
@click.option("--max-increase", multiple=True, metavar="size=2%", help="What it may grow against the baseline.")
@click.option("--min", "minimum", multiple=True, metavar="accuracy=0.9", help="What is to be reached on --data.")
@data_options(required=False, use="Held-out samples, for the accuracy (no FILE.py: gate runs no code)")
@click.option("--split", type=click.Choice(["val", "test"]), help="Which samples of the data.  [default: val]")
@click.option("--baseline", metavar="FILE|git:REV", help="A baseline, another model, or the models at a revision.")
@click.option("--update-baseline", is_flag=True, help="Write the baseline (netadapt-baseline.json) anew; commit it.")
@click.option("--allow-new", is_flag=True, help="A model that the baseline does not have keeps its limits on growth.")
@click.option("--device", metavar="NAME", help="Where the latency counts: a device's table, or only this machine.")
@click.option("--ep", help="Execution provider to time with.  [default: cpu]")
@click.option("--threads", type=click.IntRange(min=1), help="Threads to time with.  [default: 1]")
@click.option("--config", type=click.Path(path_type=Path), help="netadapt.toml or pyproject.toml; else found upwards.")
@TIMEOUT
@MEMORY_LIMIT
@click.option("--format", "form", type=click.Choice(FORMATS), default="text", help="What stdout gets.  [default: text]")
@click.option(
    "--output", multiple=True, callback=_outputs, metavar="FORMAT=FILE", help="Write a report too; may be repeated."
)
@click.option("--overwrite", is_flag=True, help="Replace existing reports.")
@SHAPE
@click.option("--batch-size", type=click.IntRange(min=1), help="Length of a dynamic first axis.  [default: 1]")
@common
def command(
    models: tuple[str, ...],
    maximum: tuple[str, ...],
    max_increase: tuple[str, ...],
    minimum: tuple[str, ...],
    data: DataSource | None,
    split: Literal["val", "test"] | None,
    baseline: str | None,
    update_baseline: bool,
    allow_new: bool,
    device: str | None,
    ep: str | None,
    threads: int | None,
    config: Path | None,
    timeout: float,
    memory_limit: int,
    form: str,
    output: dict[str, Path],
    overwrite: bool,
    shapes: dict[str, tuple[int, ...]],
    batch_size: int | None,
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
    from netadapt_onnx.common import render
    from netadapt_onnx.gating.reports import refuse, report, write

    refuse(output, overwrite)
    with render.progress_bar("judging"):
        result = gate(
            models,
            max=maximum,
            max_increase=max_increase,
            min=minimum,
            data=data,
            split=split,
            baseline=baseline,
            update_baseline=update_baseline,
            allow_new=allow_new,
            device=device,
            ep=ep,
            threads=threads,
            shapes=shapes,
            batch_size=batch_size,
            config=config,
            timeout_s=timeout,
            memory_bytes=memory_limit,
        )
    write(result, output, (form, *output))
    seen = seen_as(shapes, batch_size)
    judged = [str(model.path) for model in result.models]
    follow = (
        ""
        if form != "text" or not judged or result.error
        else "\n" + render.next_command(*_follow(judged, result.ok, baseline), *seen)
    )
    return CommandResult(
        result, lambda _: report(result, form) + follow, ok=result.ok, error=result.error, is_escaped=True
    )


def _follow(models: Sequence[str], ok: bool, baseline: str | None) -> tuple[str, ...]:
    """Where a limit is exceeded, what the model consists of; else how its numbers are kept for the next time."""
    if not ok and baseline is not None and baseline.startswith("git:"):
        return "diff", baseline, models[0]
    return ("gate", *models, "--update-baseline") if ok else ("inspect", models[0])
