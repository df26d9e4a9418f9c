"""Draws result.svg, the README's picture: every model that a run of `adapt` evaluated, its path and its budget.

    python docs/pictures/result.py RUN [RESOURCE]     # a finished run; by default the first budget's resource

The committed one is a run of `netadapt-onnx adapt resnet20_folded.onnx --data cifar10.npz --budget latency=0.6x`.
"""

from __future__ import annotations

import sys
from pathlib import Path

from netadapt_onnx.api.report import read_run
from netadapt_onnx.common import charts, render
from netadapt_onnx.reporting import adapt_charts
from netadapt_onnx.reporting.adapt_run import AdaptRun

SIZE = (640, 300)
FOLDER = Path(__file__).resolve().parent


def drawing(folder: Path, resource: str = "") -> str:
    """The chart as SVG for a page of any colour, with the outcome as its title."""
    run = read_run(folder)
    if not isinstance(run, AdaptRun) or run.result is None:
        raise SystemExit(f"{folder} is not a finished run of adapt")
    name = resource or run.budget_resources[0]
    before, after = ({p.kind: p for p in run.points}[kind] for kind in ("original", "result"))
    accuracy = run.result.accuracy
    amounts = [render.amount(name, point.resources[name]) for point in (before, after)]
    scores = [render.score(accuracy.metric, value) for value in (accuracy.before, accuracy.after)]
    title = f"{name} {' → '.join(amounts)}, {accuracy.metric} ({accuracy.split}) {' → '.join(scores)}"
    return charts.svg({**adapt_charts.accuracy_against(run, name, SIZE), "title": title})


if __name__ == "__main__":
    (FOLDER / "result.svg").write_text(drawing(Path(sys.argv[1]), *sys.argv[2:3]), encoding="utf-8")
