"""The charts of a report on a run of `adapt`, as Vega-Lite specifications."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from netadapt_onnx.common import charts
from netadapt_onnx.common.resources import COUNTED
from netadapt_onnx.reporting.adapt_run import AdaptRun

# A chart shows this many layers, those that take longest; the table below it has all.
MOST_BARS = 40
# The kinds of models that a run evaluated, with their colours, in the order of the legend; proposals are grey.
KINDS = {"original": "#4c78a8", "proposal": "#9aa0a6", "accepted": "#e45756", "result": "#2a9d55"}
UNITS = {"latency": "ms", "size": "bytes", "memory": "bytes", "energy": "mJ"}


def axis_title(resource: str) -> str:
    """The title of an axis: the resource with its unit."""
    unit = UNITS.get(resource.partition("@")[0])
    return f"{resource} ({unit})" if unit else resource


def accuracy_against(run: AdaptRun, resource: str) -> charts.Spec:
    """Accuracy against a resource for every model that a run evaluated, the path of accepted models, the budget."""
    x, y = axis_title(resource), "accuracy"
    rows = [
        {x: p.resources[resource], y: p.accuracy, "model": p.kind, "iteration": p.iteration, "group": p.group}
        for p in run.points
        if resource in p.resources
    ]
    axes = charts.axes(x, y, "model", ())
    axes["color"]["scale"] = {"domain": list(KINDS), "range": list(KINDS.values())}
    if resource in COUNTED:
        axes["x"]["axis"]["format"] = "~s"
    tips = {"tooltip": [charts.field(name) for name in (x, y, "model", "iteration", "group")]}
    opacity = {"condition": {"test": "datum.model == 'proposal'", "value": 0.6}, "value": 1}
    size = {"condition": {"test": "datum.model == 'result' || datum.model == 'original'", "value": 90}, "value": 36}
    path = [row for row in rows if row["model"] in ("original", "accepted")]
    # Points come last, on top, where the mouse finds them.
    line = {"type": "line", "strokeDash": [4, 3], "color": "gray"}
    along = {"x": axes["x"], "y": axes["y"], "order": {"field": "iteration"}}
    layers: list[dict[str, Any]] = [{"data": {"values": path}, "mark": line, "encoding": along}]
    limits = [limit.limit for limit in run.result.limits if limit.budget.startswith(f"{resource}=")]
    if limits:
        values, at = [{x: limit} for limit in limits], {"x": {**charts.field(x), "type": "quantitative"}}
        layers.append({"data": {"values": values}, "mark": {"type": "rule", "color": "crimson"}, "encoding": at})
    marks = {**axes, **tips, "opacity": opacity, "size": size}
    layers.append({"mark": {"type": "point", "filled": True}, "encoding": marks})
    return charts.layered(rows, f"accuracy against {resource}; the line is the budget", layers)


def varies(run: AdaptRun, resource: str) -> bool:
    """Whether the resource is known of more than one model."""
    return sum(resource in point.resources for point in run.points) > 1


def channels(run: AdaptRun) -> charts.Spec:
    """The channels of every group before and after."""
    rows = [
        {"group": name, "channels": count, "model": when}
        for name, counts in run.result.groups.items()
        for when, count in zip(("original", "result"), counts, strict=True)
    ]
    return _bars(rows, "group", "channels", "channels by group")


def predicted_against_measured(run: AdaptRun, resource: str) -> charts.Spec | None:
    """The predicted and the measured resource of accepted models; None where nothing was measured."""
    x, y = f"expected {axis_title(resource)}", f"measured {axis_title(resource)}"
    steps = {step.iteration: step for step in run.steps}
    rows = [
        {
            x: steps[m.iteration].resources[resource],
            y: m.ratio.median * original_amount(run, resource),
            "iteration": m.iteration,
            "stage": m.stage,
        }
        for m in run.measurements
        if m.resource == resource and m.iteration in steps
    ]
    if not rows:
        return None
    ends = [float(row[name]) for row in rows for name in (x, y)]  # type: ignore[arg-type]
    line = [{x: value, y: value} for value in (min(ends), max(ends))]
    axes = charts.axes(x, y, "stage", ())
    along = {"x": axes["x"], "y": axes["y"]}
    tips = {"tooltip": [charts.field(name) for name in (x, y, "iteration", "stage")]}
    layers: list[dict[str, Any]] = [
        {"mark": {"type": "point", "filled": True, "size": 60}, "encoding": {**axes, **tips}},
        {"data": {"values": line}, "mark": {"type": "line", "color": "gray"}, "encoding": along},
    ]
    return charts.layered(rows, f"{resource} expected and measured; the line is equality", layers)


def original_amount(run: AdaptRun, resource: str) -> float:
    """How much of a resource that was measured the original takes, in the base unit."""
    latency = run.result.latencies.get(resource)
    return run.result.measured[resource].before if latency is None else latency.before_ms


def distributions(run: AdaptRun, resource: str) -> charts.Spec | None:
    """Every session of the last careful measurement, of the original and of the result; None where there was none."""
    last = [m for m in run.measurements if m.resource == resource and m.stage == "final"]
    if not last or not last[-1].ratio.sessions_ms[0]:
        return None
    x = axis_title(resource)
    rows = [
        {x: value, "model": name}
        for name, values in zip(("result", "original"), last[-1].ratio.sessions_ms, strict=True)
        for value in values
    ]
    encoding = {
        "x": charts.axes(x, x, "", ())["x"],
        "y": {"field": "model", "type": "nominal", "title": None, "sort": ["original", "result"]},
        "color": {"field": "model", "type": "nominal", "legend": None, "sort": ["original", "result"]},
        "tooltip": [{"field": "model"}, charts.field(x)],
    }
    mark = {"type": "tick", "thickness": 2, "opacity": 0.6}
    chart = charts.layered(rows, f"{resource} of each fresh session", [{"mark": mark, "encoding": encoding}])
    return {**chart, "height": {"step": 44}}


def latency_by_layer(run: AdaptRun, resource: str) -> charts.Spec | None:
    """The predicted latency of each layer before and after; None where no table knows it."""
    timed = [layer for layer in run.details.layers if resource in layer.times_ms]
    slowest = sorted(timed, key=lambda layer: -layer.times_ms[resource][0])[:MOST_BARS]
    names = {layer.name for layer in slowest}
    rows = [
        {"layer": layer.name, "ms": layer.times_ms[resource][i], "model": when}
        for layer in run.details.layers
        if layer.name in names
        for i, when in enumerate(("original", "result"))
    ]
    once = ", once normalised" if resource in run.result.normalising else ""
    return _bars(rows, "layer", "ms", f"{resource} by layer, as the table has it{once}") if rows else None


def training(run: AdaptRun) -> charts.Spec | None:
    """The mean loss of each epoch of the final training; None where there was none."""
    rows = [{"epoch": e.epoch, "loss": e.loss} for e in run.details.training]
    return charts.lines(rows, "epoch", "loss", title="final training: mean loss of each epoch") if rows else None


def _bars(rows: Sequence[charts.Row], name: str, value: str, title: str) -> charts.Spec:
    """A chart with two bars, original and result, for each name on the vertical axis."""
    encoding = {
        "y": {"field": name, "type": "nominal", "title": None, "sort": None, "axis": {"labelLimit": 220}},
        "x": {"field": value, "type": "quantitative"},
        "yOffset": {"field": "model", "sort": None},
        "color": {"field": "model", "type": "nominal", "sort": None},
        "tooltip": [{"field": name}, {"field": "model"}, {"field": value}],
    }
    chart = charts.layered(rows, title, [{"mark": "bar", "encoding": encoding}])
    return {**chart, "height": {"step": 9}}
