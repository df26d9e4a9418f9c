"""Draws result.svg, the README's picture: every model that a run of `adapt` met, its path and its budget.

    python docs/pictures/result.py RUN [RESOURCE]     # a finished run; by default the first budget's resource

The committed one is a run of `netadapt-onnx adapt resnet20.onnx --data cifar10.npz --budget latency=0.6x
--allow-block-removal`.
"""

from __future__ import annotations

import sys
from pathlib import Path

from netadapt_onnx.api.report import read_story
from netadapt_onnx.common import charts, render
from netadapt_onnx.reporting import figures
from netadapt_onnx.reporting.story import Story

HERE = Path(__file__).resolve().parent


def drawing(run: Path, resource: str = "") -> str:
    """The chart as SVG for a page of any colour, with the outcome as its title."""
    story = read_story(run)
    if not isinstance(story, Story):
        raise SystemExit(f"{run} is not a run of adapt")
    name = resource or story.driven[0]
    before, after = ({p.kind: p for p in story.points}[kind] for kind in ("original", "result"))
    found = story.result.accuracy
    amounts = [render.amount(name, point.resources[name]) for point in (before, after)]
    scores = [render.score(found.metric, value) for value in (found.before, found.after)]
    title = f"{name} {' → '.join(amounts)}, {found.metric} ({found.split}) {' → '.join(scores)}"
    return charts.svg({**figures.accuracy_against(story, name), "title": title, "width": 640, "height": 300})


if __name__ == "__main__":
    (HERE / "result.svg").write_text(drawing(Path(sys.argv[1]), *sys.argv[2:3]), encoding="utf-8")
