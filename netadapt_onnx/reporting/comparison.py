"""The section of a report that compares several runs: their models by resource, and a row for each."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from netadapt_onnx.common import charts, render
from netadapt_onnx.common.headline import metric_name
from netadapt_onnx.reporting.adapt_charts import BROAD, NARROW, SHARES, axis_title
from netadapt_onnx.reporting.adapt_points import Point
from netadapt_onnx.reporting.adapt_run import AdaptRun
from netadapt_onnx.reporting.elements import folded, paragraph, section, table
from netadapt_onnx.reporting.page import Draw
from netadapt_onnx.reporting.result_summary import budget_state
from netadapt_onnx.reporting.scale_run import ScaleRun
from netadapt_onnx.search.result import TargetResult

AnyRun = AdaptRun | ScaleRun
SEARCHED, FINISHED = "before the final training", "after the final training"
HEADERS = ["run", "budget", "state", "original", SEARCHED, FINISHED, "reported: before → after", "cost", "work"]
EXPLAINED = (
    "Lines join the best models that each search found before the final training; large points are results, after it "
    "(or the trained networks of a run of `scale`). Vertical lines are the budgets, in the colour of their run. "
    "Accuracies are on validation samples; those that are reported are on samples that no search has seen, if the data "
    "have such."
)


def comparison(runs: Sequence[AnyRun], draw: Draw) -> list[str]:
    """The section with which a report on several runs begins."""
    drawn = []
    for name in dict.fromkeys(name for run in runs for name in run.budget_resources):
        label = f"the best accuracy of each run for {name}"
        drawn += [draw(pareto_fronts(runs, name, BROAD), "broad", label)]
        drawn += [draw(pareto_fronts(runs, name, NARROW), "narrow", label)]
    rows = [row for run in runs for row in _rows(run)]
    shown = folded("Every model", rows, table(HEADERS, rows, text=(0, 1, 2)))
    return [section("The runs compared", *drawn, paragraph(EXPLAINED, "soft"), shown)]


def pareto_fronts(runs: Sequence[AnyRun], resource: str, size: tuple[int, int] = BROAD) -> charts.Spec:
    """A chart of the models of each run that no other of the same run and stage beats in accuracy and resource."""
    x = axis_title(resource)
    metrics = list(dict.fromkeys(metric_name(run.metric) for run in runs if run.metric))
    y = metrics[0] if len(metrics) == 1 else "accuracy"
    is_share = all(render.score(run.metric, 0.5).endswith("%") for run in runs if run.metric)
    rows = [row for run in runs for row in _front_rows(run, resource, x, y)]
    encoding = charts.axes(x, y, "run", ())
    encoding["y"]["axis"] |= {"format": SHARES} if is_share else {}
    encoding["color"] |= {
        "scale": {"domain": [run.name for run in runs]},
        "legend": {"orient": "bottom", "title": None, "symbolOpacity": 1, "columns": 4 if size == BROAD else 1},
    }
    searched = [row for row in rows if row["stage"] == SEARCHED]
    finished = [row for row in rows if row["stage"] == FINISHED]
    tips = {"tooltip": [charts.field(name) for name in (x, y, "run", "stage")]}
    layers: list[charts.Spec] = [
        *_budgets(runs, resource, x, encoding),
        {
            "data": {"values": searched},
            "mark": {"type": "line", "opacity": 0.5, "point": {"size": 25}},
            "encoding": {**encoding, **tips},
        },
        {
            "data": {"values": finished},
            "mark": {"type": "point", "filled": True, "size": 170, "opacity": 1},
            "encoding": {**encoding, **tips},
        },
    ]
    return {**charts.layered(rows, "", layers), "width": size[0], "height": size[1]}


def _front_rows(run: AnyRun, resource: str, x: str, y: str) -> list[dict[str, Any]]:
    """The best models of a run before, and those after the final training."""
    drawn = run.drawn_points if isinstance(run, AdaptRun) else run.points
    points = [point for point in drawn if resource in point.resources]
    rows = []
    for stage in (SEARCHED, FINISHED):
        of_stage = [point for point in points if (point.kind == "result") == (stage == FINISHED)]
        rows += [
            {x: point.resources[resource], y: point.accuracy, "run": run.name, "stage": stage}
            for point in _front(of_stage, resource)
        ]
    return rows


def _front(points: Sequence[Point], resource: str) -> list[Point]:
    """The points that no other beats, by resource."""
    front: list[Point] = []
    for point in sorted(points, key=lambda p: (p.resources[resource], -p.accuracy)):
        if not front or point.accuracy > front[-1].accuracy:
            front.append(point)
    return front


def _budgets(runs: Sequence[AnyRun], resource: str, x: str, encoding: charts.Spec) -> list[charts.Spec]:
    """A line at each budget of each run of `adapt`, in its run's colour."""
    rows = [
        {x: budget.limit, "run": run.name}
        for run in runs
        if isinstance(run, AdaptRun)
        for budget in run.budgets
        if budget.resource == resource and budget.limit is not None
    ]
    at = {"x": {**charts.field(x), "type": "quantitative"}, "color": encoding["color"]}
    mark = {"type": "rule", "strokeDash": [6, 4], "strokeWidth": 1.5}
    return [{"data": {"values": rows}, "mark": mark, "encoding": at}] if rows else []


def _rows(run: AnyRun) -> list[list[object]]:
    """A row for every target of a run of `adapt`, one for every network of a run of `scale`."""
    return _adapt_rows(run) if isinstance(run, AdaptRun) else _scale_rows(run)


def _adapt_rows(run: AdaptRun) -> list[list[object]]:
    original = next((point.accuracy for point in run.points if point.kind == "original"), None)
    first = "" if original is None else render.score(run.metric, original)
    if run.result is None:
        budgets = ", ".join(budget.text for budget in run.budgets)
        so_far = render.score(run.metric, run.steps[-1].accepted.accuracy) if run.steps else ""
        return [[run.name, budgets, run.state, first, so_far, "", "", "", render.plural(len(run.steps), "iteration")]]
    return [_target_row(run, model, first, run.result.seconds) for model in run.result.models]


def _target_row(run: AdaptRun, model: TargetResult, original: str, seconds: float) -> list[object]:
    searched = next((step.accepted.accuracy for step in run.steps if step.iteration == model.iterations), None)
    accuracy = model.accuracy
    before, after = (render.score(accuracy.metric, value) for value in (accuracy.before, accuracy.after))
    return [
        run.name,
        model.budget,
        budget_state(model),
        original,
        "" if searched is None else render.score(run.metric, searched),
        render.score(run.metric, model.validation),
        f"{before} → {after} ({accuracy.split})",
        ", ".join(render.amount(one.resource, one.value) for one in model.limits),
        f"{render.plural(model.iterations, 'iteration')}, {seconds:.0f} s",
    ]


def _scale_rows(run: ScaleRun) -> list[list[object]]:
    rows: list[list[object]] = []
    for network in run.result.models:
        accuracy = network.accuracy
        rows.append(
            [
                run.name,
                f"{network.target} {network.method}",
                *[""] * 4,
                "not trained" if accuracy is None else render.score(accuracy.metric, accuracy.mean),
                render.count(network.resources.params) + " params",
                "" if accuracy is None else f"{len(accuracy.values)} trainings, {run.result.seconds:.0f} s in all",
            ]
        )
    return rows
