"""The charts of a report on a run of `adapt`, as Vega-Lite specifications."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from netadapt_onnx.common import charts, render
from netadapt_onnx.common.headline import metric_name
from netadapt_onnx.common.resources import COUNTED
from netadapt_onnx.reporting.adapt_points import Point
from netadapt_onnx.reporting.adapt_run import AdaptRun
from netadapt_onnx.reporting.result_summary import budget_amount
from netadapt_onnx.training.validation import Evaluation, best_of

# The kinds of models that a run evaluated, with their colours, in the order of the legend.
KINDS = {"original": "#4c78a8", "proposal": "#9aa0a6", "accepted": "#e45756", "result": "#2a9d55"}
UNITS = {"latency": "ms", "size": "bytes", "memory": "bytes", "energy": "mJ"}
BUDGET = "#c2185b"
# How an axis writes shares, as percentages with the digits that its ticks need; room above and below points, in px.
SHARES, PADDING = "~%", 12
# An axis of epochs has a tick for each of so many.
MOST_TICKS = 12
# Width and height of the chart that a page begins with, on a wide screen and on a phone; and of those side by side.
BROAD, NARROW, SMALL = (800, 360), (300, 300), (380, 220)


def axis_title(resource: str) -> str:
    """The title of an axis: the resource with its unit."""
    unit = UNITS.get(resource.partition("@")[0])
    return f"{resource} ({unit})" if unit else resource


def accuracy_title(metric: str) -> str:
    """The title of an axis of accuracies that a search sees."""
    return metric_name(metric) if metric == "evaluate" else f"{metric_name(metric)} (validation)"


def ranking_title(run: AdaptRun) -> str:
    """What proposals are ranked by, and what tells the best state of a training."""
    return "outputs explained (validation)" if run.ranks_by_outputs else accuracy_title(run.metric)


def axes(run: AdaptRun, x: str, y: str, series: str, resource: str) -> charts.Spec:
    """Axes of a resource and of an accuracy, in their units."""
    encoding = charts.axes(x, y, series, ())
    if resource in COUNTED:
        encoding["x"]["axis"]["format"] = "~s"
    if render.score(run.metric, 0.5).endswith("%"):
        encoding["y"]["axis"]["format"] = SHARES
    return encoding


def accuracy_against(run: AdaptRun, resource: str, size: tuple[int, int] = BROAD) -> charts.Spec:
    """Accuracy against a resource for every model that a run evaluated, the path of accepted models, the budget.

    The original and the result are labelled, with their amounts where there is room.
    """
    x, y = axis_title(resource), accuracy_title(run.metric)
    points = [point for point in run.drawn_points if resource in point.resources]
    rows = [_row(point, x, y, resource) for point in points]
    encoding = axes(run, x, y, "model", resource)
    encoding["color"] |= {
        "scale": {"domain": list(KINDS), "range": list(KINDS.values())},
        "legend": {"orient": "bottom", "title": None, "symbolOpacity": 1, "columns": 4 if size > NARROW else 2},
    }
    encoding["y"]["scale"] |= {"padding": PADDING, "nice": False}
    place = {"x": encoding["x"], "y": encoding["y"]}
    path = [row for row in rows if row["model"] in ("original", "accepted")]
    line = {"type": "line", "strokeDash": [4, 3], "color": "gray", "opacity": 0.7}
    layers = [
        {"data": {"values": path}, "mark": line, "encoding": {**place, "order": {"field": "iteration"}}},
        *_budget_layers(run, x, resource, size[1]),
        *(_dots(kind, rows, encoding, x, y) for kind in ("proposal", "accepted", "original", "result")),
        _labels([point for point in points if point.kind in ("original", "result")], x, y, resource, run, place, size),
    ]
    return _sized(charts.layered(rows, "", layers), size)


def _row(point: Point, x: str, y: str, resource: str) -> dict[str, Any]:
    how = "measured" if resource in COUNTED or resource in point.measured else "predicted"
    return {
        x: point.resources[resource],
        y: point.accuracy,
        "model": point.kind,
        "iteration": point.iteration,
        "group": point.group,
        "amount": "measured" if point.kind == "original" else how,
    }


def _dots(kind: str, rows: Sequence[Mapping[str, Any]], encoding: charts.Spec, x: str, y: str) -> charts.Spec:
    """The points of one kind of models; later layers lie on top."""
    area = {"proposal": 28, "accepted": 70}.get(kind, 190)
    mark = {"type": "point", "filled": True, "size": area, "opacity": 0.35 if kind == "proposal" else 1}
    tips = [charts.field(name) for name in (x, y, "model", "iteration", "group", "amount")]
    shown = [row for row in rows if row["model"] == kind]
    return {"data": {"values": shown}, "mark": mark, "encoding": {**encoding, "tooltip": tips}}


def _labels(
    points: Sequence[Point],
    x: str,
    y: str,
    resource: str,
    run: AdaptRun,
    place: charts.Spec,
    size: tuple[int, int],
) -> charts.Spec:
    """Names beside the original and the result."""
    rows = [
        {
            x: point.resources[resource],
            y: point.accuracy,
            "text": point.kind
            if size <= NARROW
            else f"{point.kind}: {render.amount(resource, point.resources[resource])}, "
            f"{render.score(run.metric, point.accuracy)}",
        }
        for point in points
    ]
    mark = {
        "type": "text",
        "align": "right",
        "dx": 9,
        "dy": -16,
        "fontSize": 13,
        "fontWeight": "bold",
        "color": charts.GREY,
    }
    return {"data": {"values": rows}, "mark": mark, "encoding": {**place, "text": {"field": "text"}}}


def _budget_layers(run: AdaptRun, x: str, resource: str, height: int) -> list[charts.Spec]:
    """A line for each budget, with what it allows in its unit."""
    budgets = [(one.text, one.limit) for one in run.budgets if one.resource == resource and one.limit is not None]
    for model in () if run.result is None else run.result.models[:-1]:
        budgets += [(one.budget, one.limit) for one in model.limits if one.resource == resource]
    rows = []
    for text, limit in budgets:
        rows.append({x: limit, "text": f"budget {budget_amount(text, limit)}"})
    at = {"x": {**charts.field(x), "type": "quantitative"}}
    label = {
        "type": "text",
        "align": "left",
        "dx": 5,
        "dy": -4,
        "baseline": "bottom",
        "fontSize": 12,
        "color": charts.GREY,
    }
    return (
        [
            {"data": {"values": rows}, "mark": {"type": "rule", "color": BUDGET, "strokeWidth": 2}, "encoding": at},
            {
                "data": {"values": rows},
                "mark": label,
                "encoding": {**at, "y": {"value": height}, "text": {"field": "text"}},
            },
        ]
        if rows
        else []
    )


def varies(run: AdaptRun, resource: str) -> bool:
    """Whether the resource is known of more than one model."""
    return sum(resource in point.resources for point in run.points) > 1


def predicted_against_measured(run: AdaptRun, resource: str) -> charts.Spec | None:
    """The predicted and the measured resource of accepted models and the result; None where nothing was measured."""
    x, y = f"predicted {axis_title(resource)}", f"measured {axis_title(resource)}"
    scale = run.scales.get(resource, 1.0)
    rows: list[dict[str, Any]] = [
        {
            x: s.resources[resource] * scale,
            y: s.accepted.measured[resource] * scale,
            "model": f"iteration {s.iteration}",
        }
        for s in run.steps
        if resource in s.accepted.measured and resource in s.resources
    ]
    final = None if run.result is None else run.result.latencies.get(resource)
    if final is not None:
        rows.append({x: final.predicted_ms * scale, y: final.after_ms, "model": "result"})
    if not rows:
        return None
    ends = [row[name] for row in rows for name in (x, y)]
    encoding = charts.axes(x, y, "", ())
    result = "datum.model == 'result'"
    colour = {"condition": {"test": result, "value": KINDS["result"]}, "value": KINDS["accepted"]}
    tips = [charts.field(name) for name in (x, y, "model")]
    layers: list[charts.Spec] = [
        {
            "data": {"values": [{x: value, y: value} for value in (min(ends), max(ends))]},
            "mark": {"type": "line", "color": "gray", "strokeDash": [4, 3]},
            "encoding": encoding,
        },
        {
            "mark": {"type": "point", "filled": True, "size": 80, "opacity": 1},
            "encoding": {**encoding, "color": colour, "tooltip": tips},
        },
    ]
    return _sized(charts.layered(rows, "On the line, the prediction is right", layers), SMALL)


def distributions(run: AdaptRun, resource: str) -> charts.Spec | None:
    """Every session of the last careful measurement, of the original and of the result; None where there was none.

    On a busy device the fastest runs of each session, which is what the result's times are of.
    """
    last = [m for m in run.measurements if m.resource == resource and m.stage == "final"]
    if run.result is None or not last or not last[-1].ratio.sessions_ms[0]:
        return None
    latency, ratio = run.result.latencies.get(resource), last[-1].ratio
    is_busy = latency is not None and latency.disturbance > 0 and bool(ratio.undisturbed_ms[0])
    sessions_ms = ratio.undisturbed_ms if is_busy else ratio.sessions_ms
    x = axis_title(resource)
    rows = [
        {x: value, "model": name}
        for name, values in zip(("result", "original"), sessions_ms, strict=True)
        for value in values
    ]
    encoding = {
        "x": charts.axes(x, x, "", ())["x"],
        "y": {"field": "model", "type": "nominal", "title": None, "sort": ["original", "result"]},
        "color": {
            "field": "model",
            "type": "nominal",
            "legend": None,
            "scale": {"domain": ["original", "result"], "range": [KINDS["original"], KINDS["result"]]},
        },
        "tooltip": [{"field": "model"}, charts.field(x)],
    }
    mark = {"type": "tick", "thickness": 2, "opacity": 0.7}
    title = "The fastest runs of each session" if is_busy else "Each session that was measured"
    chart = charts.layered(rows, title, [{"mark": mark, "encoding": encoding}])
    return {**_sized(chart, SMALL), "height": {"step": 60}}


def training_accuracy(run: AdaptRun) -> charts.Spec | None:
    """Validation accuracy during the final training, the state that was kept marked; None without evaluations."""
    if len(run.evaluations) < 2:
        return None
    x, y = "training step", ranking_title(run)
    best = best_of(run.evaluations)

    def row(one: Evaluation) -> dict[str, object]:
        return {x: one.step, y: one.accuracy}

    rows = [row(one) for one in run.evaluations]
    encoding = axes(run, x, y, "", "")
    kept = {"data": {"values": [row(best)]}}
    layers: list[charts.Spec] = [
        {"mark": {"type": "line", "point": True, "color": KINDS["original"]}, "encoding": encoding},
        {
            **kept,
            "mark": {"type": "point", "filled": True, "size": 150, "color": KINDS["result"]},
            "encoding": encoding,
        },
        {
            **kept,
            "mark": {"type": "text", "text": "kept", "dy": -14, "fontWeight": "bold", "color": charts.GREY},
            "encoding": encoding,
        },
    ]
    return _sized(charts.layered(rows, "The model during the final training", layers), SMALL)


def training_loss(run: AdaptRun) -> charts.Spec | None:
    """The mean loss of each epoch of the final training; None where there were too few to see a course."""
    rows = [{"epoch": e.epoch, "loss": e.loss} for e in run.details.training]
    if len(rows) < 3:
        return None
    spec = charts.lines(rows, "epoch", "loss", title="Mean training loss of each epoch")
    if len(rows) <= MOST_TICKS:
        spec["layer"][0]["encoding"]["x"]["axis"] |= {"values": [row["epoch"] for row in rows], "format": "d"}
    return _sized(spec, SMALL)


def _sized(spec: charts.Spec, size: tuple[int, int]) -> charts.Spec:
    return {**spec, "width": size[0], "height": size[1]}
