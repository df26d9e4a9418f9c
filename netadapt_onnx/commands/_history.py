"""The history of a run of `adapt` as a table for people; RUN/history.jsonl holds all of it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from netadapt_onnx.search.netadapt import Step

# Widths of more groups than this would fill the screen; every iteration's plan.toml has them.
MOST_WIDTHS = 24


def history(run: Path, metric: str) -> str:
    """A row per iteration: what was cut, accuracy, resources predicted and measured, all widths; empty without any."""
    from netadapt_onnx.common import render
    from netadapt_onnx.common.escape import printable_copy
    from netadapt_onnx.search.netadapt import Step
    from netadapt_onnx.search.run_directory.journal import read_history

    steps = printable_copy(read_history(run, Step))
    if not steps:
        return ""
    budgeted = _budgeted(steps)
    measured = list(dict.fromkeys(name for step in steps for name in step.accepted.measured))
    headers = ["iteration", "group", "channels", "then", "accuracy*"]
    for name in dict.fromkeys((*budgeted, *measured)):
        headers += [name if render.is_counted(name) else f"{name} predicted"]
        headers += ["measured (95%)"] if name in measured else []
    wide = len(steps[0].widths) > MOST_WIDTHS
    rows = []
    for step in steps:
        row = [step.iteration, step.group, *step.channels, render.score(metric, step.accepted.accuracy)]
        for name in dict.fromkeys((*budgeted, *measured)):
            row.append(_amount(name, step.resources[name]))
            if name in measured:
                row.append(render.measured(name, step.accepted.measured, step.accepted.measured_ci95))
        rows.append(row if wide else [*row, " ".join(map(str, step.widths.values()))])
    table = render.table(rows, headers if wide else [*headers, "widths"], text_columns=2)
    return f"{table}\n* on held-out samples, before the final training"


def _budgeted(steps: list[Step]) -> list[str]:
    """The resources that drove a step, in the order in which they did."""
    return list(dict.fromkeys(step.driver for step in steps))


def _amount(resource: str, value: float) -> str:
    from netadapt_onnx.common import render

    return render.amount(resource.partition("@")[0], value)
