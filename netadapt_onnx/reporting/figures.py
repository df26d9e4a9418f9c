"""The charts of a report."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from netadapt_onnx.common import charts
from netadapt_onnx.common.resources import COUNTED
from netadapt_onnx.reporting.story import Story

# Charts show so many layers, those that take longest; the table beside them has all.
MOST_BARS = 40
# The models that a run met, in the order of the legend: what was only tried stays in the background.
KINDS = {"original": "#4c78a8", "proposal": "#9aa0a6", "accepted": "#e45756", "result": "#2a9d55"}
UNITS = {"latency": "ms", "size": "bytes", "memory": "bytes", "energy": "mJ"}


def titled(resource: str) -> str:
    """A resource with its unit, as an axis says it."""
    unit = UNITS.get(resource.partition("@")[0])
    return f"{resource} ({unit})" if unit else resource


def accuracy_against(story: Story, resource: str) -> charts.Spec:
    """Every model that the run met, the path that it took, and the budget."""
    x, y = titled(resource), "accuracy"
    rows = [
        {x: p.resources[resource], y: p.accuracy, "model": p.kind, "iteration": p.iteration, "group": p.group}
        for p in story.points
        if resource in p.resources
    ]
    axes = charts.axes(x, y, "model", ())
    axes["color"]["scale"] = {"domain": list(KINDS), "range": list(KINDS.values())}
    if resource in COUNTED:
        axes["x"]["axis"]["format"] = "~s"
    tips = {"tooltip": [charts.field(name) for name in (x, y, "model", "iteration", "group")]}
    tried = {"condition": {"test": "datum.model == 'proposal'", "value": 0.6}, "value": 1}
    end = {"condition": {"test": "datum.model == 'result' || datum.model == 'original'", "value": 90}, "value": 36}
    path = [row for row in rows if row["model"] in ("original", "accepted")]
    # Points come last, on top, where the mouse finds them.
    line = {"type": "line", "strokeDash": [4, 3], "color": "gray"}
    along = {"x": axes["x"], "y": axes["y"], "order": {"field": "iteration"}}
    layers: list[dict[str, Any]] = [{"data": {"values": path}, "mark": line, "encoding": along}]
    limits = [limit.limit for limit in story.result.limits if limit.budget.startswith(f"{resource}=")]
    if limits:
        rule = {
            "mark": {"type": "rule", "color": "crimson"},
            "encoding": {"x": {**charts.field(x), "type": "quantitative"}},
        }
        layers.append({"data": {"values": [{x: limit} for limit in limits]}, **rule})
    marks = {**axes, **tips, "opacity": tried, "size": end}
    layers.append({"mark": {"type": "point", "filled": True}, "encoding": marks})
    return charts.layered(rows, f"accuracy against {resource}; the line is the budget", layers)


def shown(story: Story, resource: str) -> bool:
    """Whether models are known to differ in a resource."""
    return sum(resource in point.resources for point in story.points) > 1


def channels(story: Story) -> charts.Spec:
    """Channels of every group before and after."""
    rows = [
        {"group": name, "channels": count, "model": when}
        for name, counts in story.result.groups.items()
        for when, count in zip(("original", "result"), counts, strict=True)
    ]
    return _bars(rows, "group", "channels", "channels by group")


def predicted_against_measured(story: Story, resource: str) -> charts.Spec | None:
    """What the search expected of the models that it accepted, and what was measured of them."""
    x, y = f"expected {titled(resource)}", f"measured {titled(resource)}"
    before = reference(story, resource)
    steps = {step.iteration: step for step in story.steps}
    rows = [
        {
            x: steps[m.iteration].resources[resource],
            y: m.ratio.median * before,
            "iteration": m.iteration,
            "stage": m.stage,
        }
        for m in story.measurements
        if m.resource == resource and m.iteration in steps and before is not None
    ]
    if not rows:
        return None
    ends = [float(row[name]) for row in rows for name in (x, y)]  # type: ignore[arg-type]
    line = [{x: value, y: value} for value in (min(ends), max(ends))]
    axes = charts.axes(x, y, "stage", ())
    tips = {"tooltip": [charts.field(name) for name in (x, y, "iteration", "stage")]}
    layers: list[dict[str, Any]] = [
        {"mark": {"type": "point", "filled": True, "size": 60}, "encoding": {**axes, **tips}},
        {
            "data": {"values": line},
            "mark": {"type": "line", "color": "gray"},
            "encoding": {"x": axes["x"], "y": axes["y"]},
        },
    ]
    return charts.layered(rows, f"{resource} expected and measured; the line is equality", layers)


def reference(story: Story, resource: str) -> float | None:
    """What the original was measured to take of a resource, in its base unit."""
    latency, other = story.result.latencies.get(resource), story.result.measured.get(resource)
    return latency.before_ms if latency is not None else other.before if other is not None else None


def distributions(story: Story, resource: str) -> charts.Spec | None:
    """Each fresh session of the last careful measurement, the original's and the result's."""
    last = [m for m in story.measurements if m.resource == resource and m.stage == "final"]
    if not last or not last[-1].ratio.sessions_ms[0]:
        return None
    x = titled(resource)
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
    made = charts.layered(rows, f"{resource} of each fresh session", [{"mark": mark, "encoding": encoding}])
    return {**made, "height": {"step": 44}}


def spent(story: Story, resource: str) -> charts.Spec | None:
    """Where a predicted latency goes, unit by unit, before and after."""
    known = [layer for layer in story.details.layers if resource in layer.times_ms]
    known = sorted(known, key=lambda layer: -layer.times_ms[resource][0])[:MOST_BARS]
    names = {layer.name for layer in known}
    rows = [
        {"layer": layer.name, "ms": layer.times_ms[resource][i], "model": when}
        for layer in story.details.layers
        if layer.name in names
        for i, when in enumerate(("original", "result"))
    ]
    once = ", once normalised" if resource in story.result.normalising else ""
    return _bars(rows, "layer", "ms", f"{resource} by layer, as the table has it{once}") if rows else None


def training(story: Story) -> charts.Spec | None:
    """The loss of the final training."""
    rows = [{"epoch": e.epoch, "loss": e.loss} for e in story.details.training]
    return charts.lines(rows, "epoch", "loss", title="final training: mean loss of each epoch") if rows else None


def _bars(rows: Sequence[charts.Row], name: str, value: str, title: str) -> charts.Spec:
    """Two bars, original and result, per row of a nominal axis."""
    encoding = {
        "y": {"field": name, "type": "nominal", "title": None, "sort": None, "axis": {"labelLimit": 220}},
        "x": {"field": value, "type": "quantitative"},
        "yOffset": {"field": "model", "sort": None},
        "color": {"field": "model", "type": "nominal", "sort": None},
        "tooltip": [{"field": name}, {"field": "model"}, {"field": value}],
    }
    made = charts.layered(rows, title, [{"mark": "bar", "encoding": encoding}])
    return {**made, "height": {"step": 9}}
