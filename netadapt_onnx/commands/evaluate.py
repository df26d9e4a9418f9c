"""`netadapt-onnx evaluate`: accuracy, resources and latency of models, side by side."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from netadapt_onnx.api.options import EvaluateOptions
from netadapt_onnx.commands._declared import declared, keywords_of
from netadapt_onnx.commands._options import DATA, common, seen_as
from netadapt_onnx.commands._result import CommandResult
from netadapt_onnx.common import render

if TYPE_CHECKING:
    from netadapt_onnx.api.evaluate import Evaluation, ModelEvaluation
    from netadapt_onnx.data.source import DataSource


@click.command("evaluate")
@click.argument("models", type=click.Path(path_type=Path), nargs=-1, required=True, metavar="MODEL...")
@DATA
@declared(EvaluateOptions)
@click.option("--resource", type=click.Choice(["energy"]), help="Also measure this, in mJ per run on this machine.")
@common
def command(models: tuple[Path, ...], data: DataSource, resource: str | None, **options: Any) -> CommandResult:
    """Show the accuracy, cost and latency of each MODEL. Several are timed in turn, so that their times compare.

    Without labels, accuracy is the agreement of each model with the first one.

    \b
    Example:  netadapt-onnx evaluate model.onnx run/model.onnx --data data.npz --split test
    """
    with render.spinner("evaluating"):
        from netadapt_onnx.api.evaluate import evaluate

        result = evaluate(models, data, energy=resource == "energy", **keywords_of(options))
    return CommandResult(result, lambda shown: _text(shown, seen_as(options["shapes"], options["batch_size"])))


def _text(result: Evaluation, seen: list[str]) -> str:
    first = result.models[0]
    costs = [render.cost_rows(m.resources) for m in result.models]
    headers = ["model", f"{first.metric} ({first.split})", *(row[0] for row in costs[0])]
    headers += ["latency", "95% interval"] if first.latency_ms else []
    headers += ["energy"] if first.energy_mj is not None else []
    rows = [
        [m.path, render.score(m.metric, m.accuracy), *(row[1] for row in one), *_latency(m), *_energy(m)]
        for m, one in zip(result.models, costs, strict=True)
    ]
    parts = [render.table(rows, headers)]
    parts += result.notes
    if first.metric == "agreement":
        parts.append(
            "agreement: the share of samples on which a model answers as the first one does (the data have no labels)"
        )
    paths = [m.path for m in result.models]
    words = ["diff", paths[0], paths[-1]] if paths[1:] else ["inspect", paths[0]]
    parts.append(render.next_command(*words, *seen))
    return "\n\n".join(parts)


def _latency(model: ModelEvaluation) -> list[str]:
    if model.latency_ms is None:
        return []
    low, high = model.latency_ms.ci95
    return [render.milliseconds(model.latency_ms.median), f"{low:.3g} to {high:.3g} ms"]


def _energy(model: ModelEvaluation) -> list[str]:
    return [] if model.energy_mj is None else [f"{model.energy_mj:.3g} mJ"]
