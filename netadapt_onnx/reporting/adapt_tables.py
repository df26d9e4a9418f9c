"""The tables of a report on a run of `adapt`: iterations, methods that competed, channels, layers."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from netadapt_onnx.common import render
from netadapt_onnx.reporting.adapt_charts import accuracy_title, axis_title
from netadapt_onnx.reporting.adapt_run import AdaptRun
from netadapt_onnx.reporting.elements import BAR_KEY, Html, bar, folded, paragraph, table, words
from netadapt_onnx.reporting.result_summary import budget_state
from netadapt_onnx.reporting.table_rows import changed_group, target_cells
from netadapt_onnx.search.netadapt import EvaluatedProposal, Step
from netadapt_onnx.search.portfolio import PORTFOLIO
from netadapt_onnx.search.proposals import TOGETHER
from netadapt_onnx.search.result import AdaptResult


def targets(result: AdaptResult) -> Html:
    """A row for each target of one run."""
    rows = [
        [model.budget, budget_state(model), *target_cells(model), model.iterations, model.model]
        for model in result.models
    ]
    headers = ["target", "state", "MACs", "params", "latency", result.accuracy.metric, "iterations", "model"]
    return table(headers, rows, text=(0, 1, 7))


def iterations(run: AdaptRun) -> Html:
    """A row for each iteration, after one for the original; the one that the result is of stands out."""
    names = run.budget_resources
    columns = [
        column
        for name in names
        for column in ([name] if render.is_counted(name) else [f"{name}, predicted", f"{name}, measured (95%)"])
    ]
    original = next((point for point in run.points if point.kind == "original"), None)
    rows: list[list[object]] = []
    if original is not None:
        cells = [cell for name in names for cell in _original_amounts(name, original.resources.get(name))]
        rows.append([0, "(the original)", "", render.score(run.metric, original.accuracy), *cells, ""])
    for step in run.steps:
        cells = [cell for name in names for cell in _amounts(step, name, run.scales.get(name, 1.0))]
        rows.append(
            [
                step.iteration,
                changed_group(step.group),
                _counts(step),
                render.score(run.metric, step.accepted.accuracy),
                *cells,
            ]
        )
        rows[-1].append(len(step.tried))
    marked: list[int] = []
    if run.result is not None:
        marked = [number for number, row in enumerate(rows) if row[0] == run.result.iterations]
        rows.append(_result_row(run, run.result))
        marked.append(len(rows) - 1)
    headers = ["iteration", "group", "channels", accuracy_title(run.metric), *columns, "proposals"]
    return table(headers, rows, text=(1,), marked=marked)


def _result_row(run: AdaptRun, result: AdaptResult) -> list[object]:
    """The row of the result: the model of the marked iteration, perhaps trained, and measured once more."""
    was_trained = bool(run.evaluations) and not run.was_training_discarded
    changes, cells = run.changes, list[str]()
    for name in run.budget_resources:
        latency = result.latencies.get(name)
        value = changes[name].after
        if render.is_counted(name):
            cells.append(render.amount(name, value))
        elif latency is not None:
            scaled = latency.predicted_ms * run.scales.get(name, 1.0)
            measured = render.measured(name, {name: latency.after_ms}, {name: latency.after_ci95_ms})
            cells += [render.amount(name, scaled), measured]
        else:
            cells += ["", render.amount(name, value)] if name in result.measured else [render.amount(name, value), ""]
    validation = result.models[-1].validation if result.models else result.accuracy.after
    what = f"the result: iteration {result.iterations}{' after the final training' if was_trained else ''}"
    return ["", what, "", render.score(run.metric, validation), *cells, ""]


def _counts(step: Step) -> str:
    before, after = step.channels
    return f"{before} → {after}" if before != after else str(after)


def _original_amounts(name: str, amount: float | None) -> list[str]:
    shown = "" if amount is None else render.amount(name, amount)
    return [shown] if render.is_counted(name) else ["", shown]


def _amounts(step: Step, name: str, scale: float) -> list[str]:
    """What a model was predicted to cost; for a resource that is not counted also what was measured."""
    predicted = render.amount(name, step.resources[name] * scale) if name in step.resources else ""
    if render.is_counted(name):
        return [predicted]
    measured = {key: value * scale for key, value in step.accepted.measured.items()}
    intervals = {key: (low * scale, high * scale) for key, (low, high) in step.accepted.measured_ci95.items()}
    return [predicted, render.measured(name, measured, intervals)]


def competitions(run: AdaptRun) -> Html | None:
    """The methods whose widths competed, best first, and how far behind the winner each of them was.

    A method is as good as the better of its solved and its trained model.
    """
    rows: list[list[object]] = []
    winners = []
    for step in run.steps:
        if step.group not in (TOGETHER, PORTFOLIO):
            continue
        scores = [_best_score(tried) for tried in step.tried]
        best = max(scores, default=-math.inf)
        winners.append(len(rows))
        for one, tried in sorted(zip(scores, step.tried, strict=True), key=lambda pair: -pair[0]):
            values = [tried.accuracy, tried.finetuned]
            cells = ["" if value is None else render.score(run.metric, value) for value in values]
            behind = "failed" if math.isinf(one) else f"{best - one:.4f}"
            rows.append([step.iteration, tried.group, tried.channels, *cells, behind])
    if not rows:
        return None
    columns = ["iteration", "method", "channels", "weights solved", "trained for a short time", "behind the best by"]
    return folded("Every method", rows, table(columns, rows, text=(1,), marked=winners))


def _best_score(tried: EvaluatedProposal) -> float:
    """The better one of a proposal's accuracies; minus infinity if it has failed."""
    values = (tried.accuracy, tried.finetuned)
    return max((value for value in values if value is not None and math.isfinite(value)), default=-math.inf)


def channels(run: AdaptRun) -> list[str]:
    """The channels of every group before and after, as numbers and as bars."""
    result = run.result
    if result is None:
        return [_current_channels(run)] if run.steps else []
    longest = max((before for before, _ in result.groups.values()), default=0)
    rows = [
        [group, before, after, render.ratio(after, before), bar(before, after, longest)]
        for group, (before, after) in result.groups.items()
    ]
    removed = result.removed
    note = [paragraph(f"Residual branches that were removed whole: {', '.join(removed)}.")] if removed else []
    shown = table(["group", "before", "after", "left", BAR_KEY], rows, text=(0, 4))
    return [*note, folded("Every group", rows, shown)]


def _current_channels(run: AdaptRun) -> Html:
    rows = list(run.steps[-1].widths.items())
    return folded("Every group", rows, table(["group", "channels so far"], rows))


def layers(run: AdaptRun) -> Html:
    """Each layer before and after: what it costs and, where a table predicts it, how long it takes."""
    devices = [name for name in run.budget_resources if any(name in one.times_ms for one in run.details.layers)]
    longest = max((one.times_ms.get(name, (0.0, 0.0))[0] for one in run.details.layers for name in devices), default=0)
    rows = []
    for layer in run.details.layers:
        times = [layer.times_ms.get(name, (0.0, 0.0)) for name in devices]
        rows.append(
            [
                layer.name,
                layer.op,
                layer.group if layer.group != layer.name else "",
                _before_after(layer.params, render.count),
                _before_after(layer.macs, render.count),
                *(_before_after(pair, "{:.3g}".format) for pair in times),
                *(bar(*pair, longest) for pair in times[:1]),
            ]
        )
    timed = [f"{axis_title(name)}, predicted" for name in devices]
    headers = ["layer", "operator", "group", "params", "MACs", *timed, *([BAR_KEY] if devices else [])]
    last = (len(headers) - 1,) if devices else ()
    return folded("Every layer", rows, table(headers, rows, text=(0, 1, 2, *last)))


def _before_after(values: tuple[float, float], form: Callable[[float], str]) -> str:
    before, after = values
    if not before:
        return ""
    return form(before) if before == after else f"{form(before)} → {form(after)}"


def blocked(run: AdaptRun) -> Html:
    """The groups that cannot be pruned, and why."""
    rows: Sequence[Sequence[object]] = [[b.group, b.channels, b.reason] for b in run.details.blocked]
    return folded("Every layer", rows, words(["group", "channels", "why it cannot be pruned"], rows))
