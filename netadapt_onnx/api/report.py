"""`report`: a run explained in one file, or several runs over each other."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec

from netadapt_onnx.common import charts
from netadapt_onnx.common.files import refuse_existing, write_atomically
from netadapt_onnx.errors import NetadaptError
from netadapt_onnx.reporting import REPORT_FILE, adapted, scaled
from netadapt_onnx.reporting.compared import AnyStory, compared
from netadapt_onnx.reporting.page import Draw, Drawer, page
from netadapt_onnx.reporting.recorded import read_recorded
from netadapt_onnx.reporting.scaled_story import ScaledStory, read_scaled
from netadapt_onnx.reporting.story import read_adapted


@dataclass(frozen=True)
class Report:
    """The page that was written, and the runs that it shows; `notes`: which charts could not be drawn, and why."""

    report: Path
    runs: tuple[str, ...]
    size_bytes: int
    notes: tuple[str, ...] = ()


def report(
    runs: str | os.PathLike[str] | Sequence[str | os.PathLike[str]],
    output: str | os.PathLike[str] | None = None,
    *,
    interactive: bool = False,
    overwrite: bool = False,
) -> Report:
    """Write one HTML file about finished runs of `adapt` and `scale`, by default RUN/report.html.

    It needs no network. Several runs are drawn over each other: the best accuracy that each has for a resource.

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
        raise NetadaptError("no run to report on", hint="name a directory given with -o", code="usage")
    stories = [read_story(folder, name) for folder, name in zip(folders, _names(folders), strict=True)]
    file = folders[0] / REPORT_FILE if output is None else Path(output)
    if output is not None:
        refuse_existing(file, overwrite)
    drawer = Drawer(live=interactive)
    draw = drawer.figure
    parts = compared(stories, draw) if len(stories) > 1 else []
    for story in stories:
        parts += _told(story, draw, headed=len(stories) > 1)
    title = f"netadapt-onnx: {', '.join(story.name for story in stories)}"
    document = {"schema": 1, "runs": [msgspec.to_builtins(story, enc_hook=str) for story in stories]}
    text = page(title, parts, document, live=interactive).encode()
    write_atomically(file, text)
    return Report(file, tuple(story.name for story in stories), len(text), tuple(drawer.failures))


def _names(folders: Sequence[Path]) -> list[str]:
    """Their last names; with that of the folder above where several are alike, numbered where that is no help."""
    places = [folder.resolve() for folder in folders]
    last = [place.name for place in places]
    names = [p.name if last.count(p.name) == 1 else f"{p.parent.name}/{p.name}" for p in places]
    return [name if names.count(name) == 1 else f"{name} ({i})" for i, name in enumerate(names, 1)]


def read_story(run: Path, name: str = "") -> AnyStory:
    """Read a finished run of `adapt` or `scale`. Raises NetadaptError if the folder is none, or has no result yet."""
    recorded = read_recorded(run, name or run.resolve().name)
    return (read_scaled if recorded.command == "scale" else read_adapted)(recorded, run)


def _told(story: AnyStory, draw: Draw, *, headed: bool) -> list[str]:
    if isinstance(story, ScaledStory):
        return scaled.told(story, draw, headed=headed)
    return adapted.told(story, draw, headed=headed)
