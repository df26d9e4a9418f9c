"""`report`: a run explained in one file, or several runs over each other."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec

from netadapt_onnx import charts, render
from netadapt_onnx.errors import NetadaptError
from netadapt_onnx.model import refuse_existing
from netadapt_onnx.reporting import figures
from netadapt_onnx.reporting.adapted import Draw, told
from netadapt_onnx.reporting.page import Drawer, page, section, table
from netadapt_onnx.reporting.story import Story, read_story
from netadapt_onnx.search.run import write_atomically

REPORT_FILE = "report.html"


@dataclass(frozen=True)
class Report:
    """The page that was written, and the runs that it shows."""

    report: Path
    runs: tuple[str, ...]
    size_bytes: int


def report(
    runs: str | os.PathLike[str] | Sequence[str | os.PathLike[str]],
    output: str | os.PathLike[str] | None = None,
    *,
    interactive: bool = False,
    overwrite: bool = False,
) -> Report:
    """Write one HTML file about finished runs of `adapt` (by default RUN/report.html); it needs no network.

    It runs no script, unless `interactive`: then charts answer to the mouse, and the file is 0.9 MB larger.

    Raises NetadaptError for what is not a finished run, an existing file, or where vl-convert is not installed.

    >>> report("run").report.name
    'report.html'
    """
    if not charts.available():
        raise NetadaptError(
            "reports need vl-convert-python", hint="pip install 'netadapt-onnx[report]'", code="missing-package"
        )
    folders = [Path(runs)] if isinstance(runs, str | os.PathLike) else [Path(run) for run in runs]
    if not folders:
        raise NetadaptError("no run to report on", hint="name the directory given to `adapt -o`", code="usage")
    stories = [read_story(folder) for folder in folders]
    file = folders[0] / REPORT_FILE if output is None else Path(output)
    if output is not None:
        refuse_existing(file, overwrite)
    draw = Drawer(live=interactive).figure
    parts = _compared(stories, draw) if len(stories) > 1 else []
    for story in stories:
        parts += told(story, draw, headed=len(stories) > 1)
    title = f"netadapt-onnx: {', '.join(story.name for story in stories)}"
    document = {"schema": 1, "runs": [msgspec.to_builtins(story, enc_hook=str) for story in stories]}
    text = page(title, parts, document, live=interactive).encode()
    write_atomically(file, text)
    return Report(file, tuple(story.name for story in stories), len(text))


def _compared(stories: Sequence[Story], draw: Draw) -> list[str]:
    """The runs' best models over each other, and their outcomes side by side."""
    drawn = [draw(figures.fronts(stories, name)) for name in figures.driven(stories)]
    rows = [
        [
            story.name,
            ", ".join(limit.budget for limit in story.result.limits),
            render.percent(story.result.accuracy.before),
            render.percent(story.result.accuracy.after),
            story.result.iterations,
            f"{story.result.seconds:.0f} s",
        ]
        for story in stories
    ]
    headers = ["run", "budget", "accuracy before", "after", "iterations", "time"]
    return [section("The runs compared", *drawn, table(headers, rows))]
