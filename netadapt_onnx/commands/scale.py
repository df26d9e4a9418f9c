"""`netadapt-onnx scale`: the best widths for any size of an architecture, up or down."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from netadapt_onnx.commands._declared import declared, keywords_of
from netadapt_onnx.commands._help import SectionedCommand
from netadapt_onnx.commands._next import again, interruptible
from netadapt_onnx.commands._options import common, data_options, needed, seen_as
from netadapt_onnx.commands._result import CommandResult
from netadapt_onnx.common import render
from netadapt_onnx.common.escape import escape
from netadapt_onnx.common.options import DEVICES, NEEDED, RUNNING, TRAINING
from netadapt_onnx.reporting import REPORT_FILE
from netadapt_onnx.reporting.table_rows import law_rows, width_rows
from netadapt_onnx.scaling.options import ScaleOptions

if TYPE_CHECKING:
    from netadapt_onnx.data.source import DataSource
    from netadapt_onnx.scaling.result import OriginalNetwork, ScaledModel, ScaleResult


def _numbers(_: click.Context, __: click.Parameter, text: str | None) -> tuple[int, ...] | None:
    try:
        return None if text is None else tuple(int(part) for part in text.split(","))
    except ValueError as error:
        raise click.BadParameter(f"'{text}' is not a list of numbers such as 1,5,10") from error


def _targets(_: click.Context, __: click.Parameter, text: str | None) -> tuple[str, ...]:
    """A resource that is named holds for the values behind it: `0.5x,latency=8ms,4ms`."""
    if text is None:
        return ()
    texts, resource = [], "params"
    for part in text.split(","):
        named, equals, value = part.rpartition("=")
        resource = named.strip() if equals else resource
        texts.append(f"{resource}={value.strip()}")
    return tuple(texts)


CHANGES: Mapping[str, Mapping[str, Any]] = {
    "warmup_epochs": {"callback": _numbers, "is_advanced": True},
    "batches": {"is_advanced": True},
    **{key: {"section": NEEDED} for key in ("target", "law", "fit")},
    **{key: {"section": TRAINING} for key in ("epochs", "lr", "seeds")},
    **{key: {"section": DEVICES} for key in ("table", "force")},
    "resume": {"section": RUNNING},
}


@click.command("scale", cls=SectionedCommand)
@click.argument("model", type=click.Path(path_type=Path), metavar="[MODEL]", required=False)
@data_options(required=False, use="Samples to search with and to train on")
@needed(
    "--targets",
    "more",
    callback=_targets,
    metavar="V,V,...",
    help="Several targets at once: 0.25x,0.5x,2x of the parameters.",
)
@needed("-o", "out", type=click.Path(path_type=Path), metavar="RUN", help="The run's directory.")
@declared(ScaleOptions, CHANGES)
@common
def command(model: Path | None, data: DataSource | None, more: tuple[str, ...], **options: Any) -> CommandResult:
    """Find out how the widths of MODEL's layers should grow or shrink with its size (NeuralScale), and train it at any
    size.

    With --data the law of widths is searched; --law or --fit use one that was found before. Every target makes a model
    in RUN/models. Without --data the models are not trained.

    \b
    Examples:  netadapt-onnx scale net.onnx --data data.npz --targets 0.25x,0.5x,2x -o run --iterations 1
               netadapt-onnx scale net.onnx --law run/widths.toml --target latency=8ms -o small
               netadapt-onnx scale --fit record.csv
    """
    targets = (*options.pop("target"), *more)
    out = options["out"]
    with interruptible(lambda: _kept(out)), render.progress_bar("scaling") as log:
        from netadapt_onnx.api.report import write_report
        from netadapt_onnx.api.scale import scale
        from netadapt_onnx.common.memory import share_heap

        share_heap()
        result = scale(model, data, target=targets, log=log, **keywords_of(options))
        if model is not None and out is not None:
            result = replace(result, notes=(*result.notes, *write_report(out)))
    return CommandResult(
        result, lambda shown: _text(shown, model, data, out, seen_as(options["shapes"], options["batch_size"]))
    )


def _kept(out: str | Path | None) -> str:
    """What an interrupted run leaves, and how to go on with it."""
    if out is None or not (Path(out) / "run.json").exists():
        return "nothing was written yet"
    return f"nothing is lost, {out} has all results so far; go on with `{again('--resume')}`"


def _text(result: ScaleResult, model: Path | None, data: DataSource | None, out: Path | None, seen: list[str]) -> str:
    parts = []
    if result.groups:
        parts.append(render.table(law_rows(result.groups), ["group", "alpha", "beta", "rows", "r2"]))
    if result.models:
        parts.append(render.table(*width_rows(result.models, result.original)))
        first = [] if result.original is None else [_original_row(result.original)]
        parts.append(render.table([*first, *map(_row, result.models)], HEADERS, text_columns=2))
    parts += result.notes
    written = [scaled.model for scaled in result.models if scaled.model is not None]
    if written and out is not None:
        page = out / REPORT_FILE
        parts.append("\n".join(f"wrote {file}" for file in [*written, *([escape(page)] if page.exists() else [])]))
    if written and model is not None:
        words = ["diff", model, written[0]] if data is None else ["evaluate", model, written[0], *data.flags]
        parts.append(render.next_command(*words, *seen))
    elif model is None:
        parts.append(
            "To build a network by this law, name a model as well: scale MODEL --fit FILE --target params=0.5x"
        )
    return "\n\n".join(parts)


HEADERS = ["target", "method", "params", "macs", "latency", "accuracy", "spread"]


def _original_row(original: OriginalNetwork) -> list[object]:
    cost, score = original.resources, original.accuracy
    accuracy = "" if score is None else render.score(score.metric, score.mean)
    times = render.milliseconds(cost.latency_ms)
    return ["original", "", render.count(cost.params), render.count(cost.macs), times, accuracy, ""]


def _row(scaled: ScaledModel) -> list[object]:
    cost, score = scaled.resources, scaled.accuracy
    latency = "" if cost.latency_ms is None else f"{render.milliseconds(cost.latency_ms)} ({scaled.latency_ratio:.3f}x)"
    accuracy = "" if score is None else render.score(score.metric, score.mean)
    spread = "" if score is None or len(score.values) < 2 else render.score(score.metric, score.std)
    return [scaled.target, scaled.method, render.count(cost.params), render.count(cost.macs), latency, accuracy, spread]
