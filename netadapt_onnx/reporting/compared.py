"""Several runs beside each other: the best that each has for a resource, and what each came to."""

from __future__ import annotations

from collections.abc import Sequence

from netadapt_onnx.common import charts, render
from netadapt_onnx.reporting.figures import titled
from netadapt_onnx.reporting.page import Draw, section, table
from netadapt_onnx.reporting.scaled_story import ScaledStory
from netadapt_onnx.reporting.story import Story

AnyStory = Story | ScaledStory
HEADERS = ["run", "asked for", "accuracy before", "after", "work", "time"]


def compared(stories: Sequence[AnyStory], draw: Draw) -> list[str]:
    """The section that several runs begin with."""
    names = dict.fromkeys(name for story in stories for name in story.driven)
    drawn = [draw(fronts(stories, name)) for name in names]
    rows = [row for story in stories for row in _rows(story)]
    return [section("The runs compared", *drawn, table(HEADERS, rows))]


def fronts(stories: Sequence[AnyStory], resource: str) -> charts.Spec:
    """The models of several runs that no other of the same run beats in both accuracy and resource."""
    x = titled(resource)
    metrics = list(dict.fromkeys(story.metric for story in stories if story.metric))
    y = metrics[0] if len(metrics) == 1 else "accuracy"
    rows = []
    for story in stories:
        best = -float("inf")
        known = [p for p in story.points if resource in p.resources]
        for point in sorted(known, key=lambda p: (p.resources[resource], -p.accuracy)):
            if point.accuracy > best:
                best = point.accuracy
                rows.append({x: point.resources[resource], y: point.accuracy, "run": story.name})
    return charts.lines(rows, x, y, series="run", title=f"best {y} for {resource}")


def _rows(story: AnyStory) -> list[list[object]]:
    """A row for a run of `adapt`, one for every network of a run of `scale`."""
    if isinstance(story, Story):
        found = story.result.accuracy
        scores = [render.score(found.metric, value) for value in (found.before, found.after)]
        asked = ", ".join(limit.budget for limit in story.result.limits)
        return [[story.name, asked, *scores, f"{story.result.iterations} iterations", f"{story.result.seconds:.0f} s"]]
    return [
        [
            story.name,
            f"{made.target} {made.method}",
            "",
            "" if made.accuracy is None else render.score(made.accuracy.metric, made.accuracy.mean),
            "none" if made.accuracy is None else f"{len(made.accuracy.values)} trainings",
            f"{story.result.seconds:.0f} s" if made is story.result.models[0] else "",
        ]
        for made in story.result.models
    ]
