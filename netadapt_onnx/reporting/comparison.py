"""The section of a report that compares several runs: the best accuracy of each by resource, and a row for each."""

from __future__ import annotations

from collections.abc import Sequence

from netadapt_onnx.common import render
from netadapt_onnx.common.charts import Spec, lines
from netadapt_onnx.reporting.adapt_charts import axis_title
from netadapt_onnx.reporting.adapt_run import AdaptRun
from netadapt_onnx.reporting.page import Draw, section, table
from netadapt_onnx.reporting.scale_run import ScaleRun
from netadapt_onnx.reporting.table_rows import scores

AnyRun = AdaptRun | ScaleRun
HEADERS = ["run", "asked for", "accuracy before", "after", "work", "time"]


def comparison(runs: Sequence[AnyRun], draw: Draw) -> list[str]:
    """The section with which a report on several runs begins."""
    names = dict.fromkeys(name for run in runs for name in run.budget_resources)
    charts = [draw(pareto_fronts(runs, name)) for name in names]
    rows = [row for run in runs for row in _rows(run)]
    return [section("The runs compared", *charts, table(HEADERS, rows))]


def pareto_fronts(runs: Sequence[AnyRun], resource: str) -> Spec:
    """A chart of the models of each run that no other of the same run beats in both accuracy and resource."""
    x = axis_title(resource)
    metrics = list(dict.fromkeys(run.metric for run in runs if run.metric))
    y = metrics[0] if len(metrics) == 1 else "accuracy"
    rows = []
    for run in runs:
        best = -float("inf")
        points = [p for p in run.points if resource in p.resources]
        for point in sorted(points, key=lambda p: (p.resources[resource], -p.accuracy)):
            if point.accuracy > best:
                best = point.accuracy
                rows.append({x: point.resources[resource], y: point.accuracy, "run": run.name})
    return lines(rows, x, y, series="run", title=f"best {y} for {resource}")


def _rows(run: AnyRun) -> list[list[object]]:
    """A row for a run of `adapt`, one for every network of a run of `scale`."""
    if isinstance(run, AdaptRun):
        accuracy = run.result.accuracy
        budgets = ", ".join(limit.budget for limit in run.result.limits)
        return [
            [run.name, budgets, *scores(accuracy), f"{run.result.iterations} iterations", f"{run.result.seconds:.0f} s"]
        ]
    return [
        [
            run.name,
            f"{network.target} {network.method}",
            "",
            "" if network.accuracy is None else render.score(network.accuracy.metric, network.accuracy.mean),
            "none" if network.accuracy is None else f"{len(network.accuracy.values)} trainings",
            f"{run.result.seconds:.0f} s" if network is run.result.models[0] else "",
        ]
        for network in run.result.models
    ]
