"""The charts of a report."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from netadapt_onnx import charts
from netadapt_onnx.reporting.story import Story

UNITS = {"latency": "ms", "size": "bytes", "memory": "bytes"}


def titled(resource: str) -> str:
    """A resource with its unit, as an axis says it."""
    return f"{resource} ({UNITS[resource]})" if resource in UNITS else resource


def driven(stories: Sequence[Story]) -> list[str]:
    """The resources that budgets speak of, in the order in which they were given."""
    names = [limit.budget.split("=")[0].split("@")[0] for story in stories for limit in story.result.limits]
    return list(dict.fromkeys(names))


def accuracy_against(story: Story, resource: str) -> charts.Spec:
    """Every model that the run met, the path that it took, and the budget."""
    x, y = titled(resource), "accuracy"
    rows = [
        {x: p.resources[resource], y: p.accuracy, "model": p.kind, "iteration": p.iteration, "group": p.group}
        for p in story.points
        if resource in p.resources
    ]
    axes = charts.axes(x, y, "model", ())
    tips = {"tooltip": [{"field": name} for name in (x, y, "model", "iteration", "group")]}
    path = [row for row in rows if row["model"] in ("original", "accepted")]
    layers: list[dict[str, Any]] = [
        {"mark": {"type": "point", "filled": True, "size": 40, "opacity": 0.7}, "encoding": {**axes, **tips}},
        {
            "data": {"values": path},
            "mark": {"type": "line", "strokeDash": [4, 3], "color": "gray"},
            "encoding": {"x": axes["x"], "y": axes["y"], "order": {"field": "iteration"}},
        },
    ]
    limits = [limit.limit for limit in story.result.limits if limit.budget.startswith(f"{resource}=")]
    if limits:
        rule = {"mark": {"type": "rule", "color": "crimson"}, "encoding": {"x": {"field": x, "type": "quantitative"}}}
        layers.append({"data": {"values": [{x: limit} for limit in limits]}, **rule})
    return charts.layered(rows, f"accuracy against {resource}; the line is the budget", layers)


def channels(story: Story) -> charts.Spec:
    """Channels of every group before and after."""
    rows = [
        {"group": name, "channels": count, "model": when}
        for name, counts in story.result.groups.items()
        for when, count in zip(("original", "result"), counts, strict=True)
    ]
    encoding = {
        "y": {"field": "group", "type": "nominal", "sort": None, "axis": {"labelLimit": 220}},
        "x": {"field": "channels", "type": "quantitative"},
        "yOffset": {"field": "model", "sort": None},
        "color": {"field": "model", "type": "nominal", "sort": None},
    }
    made = charts.layered(rows, "channels by group", [{"mark": "bar", "encoding": encoding}])
    return {**made, "height": {"step": 9}}


def predicted_against_measured(story: Story) -> charts.Spec | None:
    """The final model's latency on every device: what its table said and what was measured."""
    known = {"this machine": story.result.latency, **story.result.latencies}
    found = {name: latency for name, latency in known.items() if latency is not None}
    if not found:
        return None
    rows = [
        {"measured (ms)": latency.after_ms, "predicted (ms)": latency.predicted_ms, "device": name}
        for name, latency in found.items()
    ]
    times = [ms for latency in found.values() for ms in (latency.after_ms, latency.predicted_ms)]
    line = [{"measured (ms)": ms, "predicted (ms)": ms} for ms in (0.9 * min(times), 1.1 * max(times))]
    axes = charts.axes("predicted (ms)", "measured (ms)", "device", ())
    layers: list[dict[str, Any]] = [
        {"mark": {"type": "point", "filled": True, "size": 80}, "encoding": axes},
        {
            "data": {"values": line},
            "mark": {"type": "line", "color": "gray"},
            "encoding": {"x": axes["x"], "y": axes["y"]},
        },
    ]
    return charts.layered(rows, "latency predicted and measured; the line is equality", layers)


def fronts(stories: Sequence[Story], resource: str) -> charts.Spec:
    """The models of several runs that no other of the same run beats in both accuracy and resource."""
    x, y = titled(resource), "accuracy"
    rows = []
    for story in stories:
        best = -1.0
        known = [p for p in story.points if resource in p.resources]
        for point in sorted(known, key=lambda p: (p.resources[resource], -p.accuracy)):
            if point.accuracy > best:
                best = point.accuracy
                rows.append({x: point.resources[resource], y: point.accuracy, "run": story.name})
    return charts.lines(rows, x, y, series="run", title=f"best accuracy for {resource}")
