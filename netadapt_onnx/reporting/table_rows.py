"""Rows of the tables that a run's page and the terminal both show."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from netadapt_onnx.common import render

if TYPE_CHECKING:
    from netadapt_onnx.data.metrics import AccuracyChange
    from netadapt_onnx.scaling.power_law import GroupLaw
    from netadapt_onnx.scaling.result import ScaledModel
    from netadapt_onnx.search.result import AdaptResult, SearchResult


def result_rows(result: AdaptResult) -> list[list[str]]:
    """What a model costs and how accurate it is: before, after, and what is left."""
    rows = render.cost_rows(result.before, result.after)
    first = next(iter(result.latencies.values()), None)
    if first is not None and result.after.latency_ms is not None:
        rows[-1][-1] = f"{first.ratio:.2f}x"  # as it was measured: a median of ratios is no ratio of medians
    return [
        *rows,
        *render.normalised_rows(result.before.latency_ms, result.normalised),
        accuracy_row(result.accuracy),
    ]


def accuracy_row(change: AccuracyChange, form: str = "") -> list[str]:
    """An accuracy before and after; `form` says of what, if not of the float model."""
    return [f"{change.metric} ({change.split}){form}", *scores(change), ""]


def scores(change: AccuracyChange) -> tuple[str, str]:
    """An accuracy before and after."""
    return render.score(change.metric, change.before), render.score(change.metric, change.after)


def target_cells(model: SearchResult) -> list[str]:
    """Macs, params, latency and accuracy of the model for one of several targets."""
    return [
        render.count(model.after.macs),
        render.count(model.after.params),
        render.milliseconds(model.after.latency_ms),
        render.score(model.accuracy.metric, model.accuracy.after),
    ]


def verdict(met: bool | None, stopped: str, words: Mapping[bool | None, str]) -> str:
    """Whether a budget holds, in `words`, unless a device was too busy to tell."""
    return "could not be judged" if met is None and stopped == "could-not-judge" else words[met]


def law_rows(laws: Sequence[GroupLaw]) -> list[list[object]]:
    """The law of each group: name, alpha, beta, records and r2."""
    return [
        [law.name, f"{law.alpha:.4g}", f"{law.beta:.3f}", law.rows, "" if law.r2 is None else f"{law.r2:.3f}"]
        for law in laws
    ]


def width_rows(models: Sequence[ScaledModel]) -> tuple[list[list[object]], list[str]]:
    """The widths of each group in all models, and the columns' titles."""
    rows = [[group, *(model.widths[group] for model in models)] for group in models[0].widths]
    return rows, ["group", *(f"{model.target} {model.method}" for model in models)]
