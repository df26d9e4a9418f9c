"""The sections of a report that explain a run of `adapt`."""

from __future__ import annotations

import math
from collections.abc import Callable

from netadapt_onnx.common import render
from netadapt_onnx.reporting import adapt_charts
from netadapt_onnx.reporting.adapt_run import AdaptRun
from netadapt_onnx.reporting.page import Draw, collapsible, paragraph, section, table
from netadapt_onnx.reporting.reproduction import reproduction
from netadapt_onnx.reporting.table_rows import accuracy_row, result_rows, target_cells, verdict
from netadapt_onnx.search.netadapt import EvaluatedProposal, Step
from netadapt_onnx.search.portfolio import PORTFOLIO
from netadapt_onnx.search.proposals import TOGETHER
from netadapt_onnx.search.result import Latency

STATES = {True: "met", False: "missed", None: "predicted only"}


def adapt_sections(run: AdaptRun, draw: Draw, *, with_name: bool) -> list[str]:
    """Sections as HTML, from the run's verdict to how it can be repeated.

    Args:
        run: A finished run of `adapt`.
        draw: Renders a chart as HTML.
        with_name: Whether headings begin with the run's name, because the page holds several runs.
    """
    parts = [
        ("what came of it", _outcome(run)),
        *_accuracy_charts(run, draw),
        ("iterations", [_iterations(run)]),
        ("who competed", _competitions(run)),
        ("channels", _channels(run, draw)),
        *((f"{name}: predicted and measured", _measurements(run, draw, name))
          for name in (*run.result.latencies, *run.result.measured)),
        ("final training", _training(run, draw)),
        ("layers", [_layers(run)] if run.details.layers else []),
        ("what stays, and why", [_blocked(run)] if run.details.blocked else []),
        ("how to repeat it", [reproduction(run.identity, run.about)]),
    ]  # fmt: skip
    prefix = f"{run.name}: " if with_name else ""
    return [section(prefix + title, *content) for title, content in parts if content]


def _accuracy_charts(run: AdaptRun, draw: Draw) -> list[tuple[str, list[str]]]:
    caption = (
        "Proposals and accepted models are judged on held-out samples before the final training; the original and the "
        f"result on {run.result.accuracy.split}. Resources of proposals are predictions."
    )
    return [
        (f"accuracy against {name}", [draw(adapt_charts.accuracy_against(run, name)), paragraph(caption)])
        for name in run.budget_resources
        if adapt_charts.varies(run, name)
    ]


def _channels(run: AdaptRun, draw: Draw) -> list[str]:
    rows = [[group, *counts, render.ratio(counts[1], counts[0])] for group, counts in run.result.groups.items()]
    removed = run.result.removed
    note = [paragraph(f"Without the residual branches {', '.join(removed)}.")] if removed else []
    return [draw(adapt_charts.channels(run)), *note, table(["group", "before", "after", "left"], rows)]


def _measurements(run: AdaptRun, draw: Draw, resource: str) -> list[str]:
    charts = (
        adapt_charts.distributions(run, resource),
        adapt_charts.predicted_against_measured(run, resource),
        adapt_charts.latency_by_layer(run, resource),
    )
    return [_measured(run, resource), *(draw(chart) for chart in charts if chart is not None)]


def _training(run: AdaptRun, draw: Draw) -> list[str]:
    curve = adapt_charts.training(run)
    rows = [[e.epoch, f"{e.loss:.4f}", f"{e.lr:.3g}"] for e in run.details.training]
    epochs = collapsible("every epoch", table(["epoch", "mean loss", "learning rate"], rows))
    return [] if curve is None else [draw(curve), epochs]


def _outcome(run: AdaptRun) -> list[str]:
    result = run.result
    verdicts = []
    for limit in result.limits:
        state = verdict(limit.met, result.stopped, STATES)
        verdicts.append(paragraph(f"{limit.budget}: {state}", f"verdict {state.split()[0]}"))
    rows = result_rows(result)
    if result.deployed is not None:
        sizes = result.deployed.size_bytes
        rows.append(accuracy_row(result.deployed.accuracy, f" as {result.deployed.precision}"))
        share = render.ratio(sizes[1], sizes[0])
        rows.append([f"file size as {result.deployed.precision}", *map(render.size, sizes), share])
    targets = [_targets(run)] if len(result.models) > 1 else []
    notes = [paragraph(note) for note in result.notes]
    return [*verdicts, table(["", "before", "after", "left"], rows), *targets, *notes]


def _targets(run: AdaptRun) -> str:
    """A table with a row for each target of one run."""
    rows = [
        [model.budget, verdict(model.met, model.stopped, STATES), *target_cells(model), model.iterations]
        for model in run.result.models
    ]
    return table(["target", "", "macs", "params", "latency", run.metric, "iterations"], rows)


def _iterations(run: AdaptRun) -> str:
    names = run.budget_resources
    rows = [
        [
            step.iteration,
            step.group,
            f"{step.channels[0]} → {step.channels[1]}",
            len(step.tried),
            *(cell for name in names for cell in _amounts(step, name)),
            render.score(run.metric, step.accepted.accuracy),
        ]
        for step in run.steps
    ]
    columns = [
        column
        for name in names
        for column in ([name] if render.is_counted(name) else [f"{name}, predicted", f"{name}, measured (95%)"])
    ]
    return table(["iteration", "group", "channels", "proposals", *columns, "held-out accuracy"], rows, "numbers named")


def _competitions(run: AdaptRun) -> list[str]:
    """A table of the methods whose widths competed, best first, and how far behind the winner each of them was.

    A method is as good as the better of its solved and its trained model.
    """
    rows = []
    for step in run.steps:
        if step.group not in (TOGETHER, PORTFOLIO):
            continue
        scores = [_score(tried) for tried in step.tried]
        best = max(scores, default=-math.inf)
        for score, tried in sorted(zip(scores, step.tried, strict=True), key=lambda pair: -pair[0]):
            values = [tried.accuracy, tried.finetuned]
            cells = ["" if value is None else render.score(run.metric, value) for value in values]
            behind = "failed" if math.isinf(score) else f"{best - score:.4f}"
            rows.append([step.iteration, tried.group, tried.channels, *cells, behind])
    if not rows:
        return []
    columns = ["iteration", "method", "channels", "solved", "trained for a short time", "behind"]
    return [table(columns, rows, "numbers named")]


def _score(tried: EvaluatedProposal) -> float:
    """The better one of a proposal's accuracies; minus infinity if it has failed."""
    values = (tried.accuracy, tried.finetuned)
    return max((value for value in values if value is not None and math.isfinite(value)), default=-math.inf)


def _amounts(step: Step, name: str) -> list[str]:
    """What a model was predicted to cost; for a resource that is not counted also what was measured."""
    predicted = render.amount(name, step.resources[name]) if name in step.resources else ""
    if render.is_counted(name):
        return [predicted]
    return [predicted, render.measured(name, step.accepted.measured, step.accepted.measured_ci95)]


def _measured(run: AdaptRun, resource: str) -> str:
    """A table of the final measurement of a resource."""
    comparison = run.result.latencies.get(resource) or run.result.measured[resource]
    if isinstance(comparison, Latency):
        values = (comparison.before_ms, comparison.after_ms, comparison.predicted_ms)
        cells, counted, count = [*map(render.milliseconds, values)], "sessions", comparison.sessions
    else:
        cells = [f"{value:.4g}" for value in (comparison.before, comparison.after, comparison.predicted)]
        counted, count = "measurements", comparison.measurements
    low, high = comparison.ci95
    share = f"{comparison.ratio:.3f}x ({low:.3f} to {high:.3f})"
    return table(["before", "after", "predicted", "share (95%)", counted], [[*cells, share, count]])


def _layers(run: AdaptRun) -> str:
    """A table of each layer before and after."""
    timed = [name for name in run.result.latencies if any(name in x.times_ms for x in run.details.layers)]
    rows = []
    for layer in run.details.layers:
        changed = [
            _change(layer.params, render.count),
            _change(layer.macs, render.count),
            *(_change(layer.times_ms.get(name, (0.0, 0.0)), "{:.3g}".format) for name in timed),
        ]
        rows.append([layer.name, layer.op, layer.group if layer.group != layer.name else "", *changed])
    return table(["layer", "operator", "group", "params", "macs", *map(adapt_charts.axis_title, timed)], rows)


def _change(values: tuple[float, float], form: Callable[[float], str]) -> str:
    before, after = values
    if not before:
        return ""
    return form(before) if before == after else f"{form(before)} → {form(after)}"


def _blocked(run: AdaptRun) -> str:
    rows = [[b.group, b.channels, b.reason] for b in run.details.blocked]
    return table(["group", "channels", "why it cannot be pruned"], rows, "words")
