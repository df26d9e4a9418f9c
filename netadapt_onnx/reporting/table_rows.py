"""Rows of the tables that a run's page and the terminal both show."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from netadapt_onnx.common import render
from netadapt_onnx.reporting.result_summary import measured_changes, predicted_changes

if TYPE_CHECKING:
    from netadapt_onnx.common.headline import Change
    from netadapt_onnx.data.metrics import AccuracyChange
    from netadapt_onnx.scaling.power_law import GroupLaw
    from netadapt_onnx.scaling.result import OriginalNetwork, ScaledModel
    from netadapt_onnx.search.result import AdaptResult, SearchResult


def result_rows(result: AdaptResult) -> list[list[str]]:
    """What a model costs and how accurate it is: before, after, and what is left.

    What was measured has the ratio that was measured, which that of two rounded times need not be.
    """
    counted = (replace(resources, latency_ms=None) for resources in (result.before, result.after))
    return [
        *render.cost_rows(*counted),
        *(_change_row(change) for change in (*measured_changes(result), *predicted_changes(result))),
        *render.normalised_rows(result.before.latency_ms, result.normalised),
        accuracy_row(result.accuracy),
    ]


def _change_row(change: Change) -> list[str]:
    """A resource that is not counted, as measured or, marked so, as predicted."""
    before = "" if change.before is None else render.amount(change.resource, change.before)
    share = "" if change.before is None else f"{change.share:.3f}x"
    name = f"{change.resource} (predicted)" if change.is_predicted else change.resource
    return [name, before, render.amount(change.resource, change.after), share]


def accuracy_row(change: AccuracyChange, form: str = "") -> list[str]:
    """An accuracy before and after; `form` says of what, if not of the float model."""
    return [f"{change.metric} ({change.split}){form}", *scores(change), ""]


def scores(change: AccuracyChange) -> tuple[str, str]:
    """An accuracy before and after."""
    return render.score(change.metric, change.before), render.score(change.metric, change.after)


def changed_group(group: str) -> str:
    """What a step of a search changed, as people read it: one group, or all of them."""
    from netadapt_onnx.search.portfolio import PORTFOLIO
    from netadapt_onnx.search.proposals import TOGETHER

    return {TOGETHER: "all groups at once", PORTFOLIO: "the best of several methods"}.get(group, group)


def target_cells(model: SearchResult) -> list[str]:
    """Macs, params, latency and accuracy of the model for one of several targets."""
    return [
        render.count(model.after.macs),
        render.count(model.after.params),
        render.milliseconds(model.after.latency_ms),
        render.score(model.accuracy.metric, model.accuracy.after),
    ]


def law_rows(laws: Sequence[GroupLaw]) -> list[list[object]]:
    """The law of each group: name, alpha, beta, records and r2."""
    return [
        [law.name, f"{law.alpha:.4g}", f"{law.beta:.3f}", law.rows, "" if law.r2 is None else f"{law.r2:.3f}"]
        for law in laws
    ]


def width_rows(
    models: Sequence[ScaledModel], original: OriginalNetwork | None = None
) -> tuple[list[list[object]], list[str]]:
    """The widths of each group in the original, where it is known, and in all models; and the columns' titles."""
    widths = [*([] if original is None else [original.widths]), *(model.widths for model in models)]
    rows: list[list[object]] = [[group, *(one[group] for one in widths)] for group in models[0].widths]
    first = [] if original is None else ["original"]
    return rows, ["group", *first, *(f"{model.target} {model.method}" for model in models)]
