"""`report`: one HTML file that explains a run, or compares several."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec

from netadapt_onnx.common import charts
from netadapt_onnx.common.escape import escape_joined
from netadapt_onnx.common.files import refuse_existing, write_atomically
from netadapt_onnx.common.options import File
from netadapt_onnx.common.progress import stage
from netadapt_onnx.errors import NetadaptError
from netadapt_onnx.reporting import REPORT_FILE
from netadapt_onnx.reporting.adapt_run import read_adapt_run
from netadapt_onnx.reporting.adapt_sections import adapt_sections
from netadapt_onnx.reporting.comparison import AnyRun, comparison
from netadapt_onnx.reporting.page import ChartRenderer, Draw, page
from netadapt_onnx.reporting.recorded_run import read_recorded_run
from netadapt_onnx.reporting.scale_run import ScaleRun, read_scale_run
from netadapt_onnx.reporting.scale_sections import scale_sections


@dataclass(frozen=True)
class Report:
    """The file that was written and the runs that it shows; `notes` say which charts could not be drawn, and why."""

    report: Path
    runs: tuple[str, ...]
    size_bytes: int
    notes: tuple[str, ...] = ()


def report(
    runs: File | Sequence[File],
    output: File | None = None,
    *,
    interactive: bool = False,
    overwrite: bool = False,
) -> Report:
    """Write one HTML file about runs of `adapt` and `scale`.

    The file fetches nothing. Of several runs it compares the best accuracy that each has for a resource. A run of
    `adapt` may be at work or interrupted: the page shows what there is so far.

    Args:
        runs: The run directory, or several.
        output: The file to write; by default `report.html` in the first run's directory.
        interactive: Whether charts react to the mouse. The file then holds a script and is 0.9 MB larger.
        overwrite: Whether an existing `output` is replaced.

    Returns:
        The file and the names of the runs that it shows.

    Raises:
        NetadaptError: A folder is no run, or one of `scale` that has not ended; `output` exists; vl-convert is not
            installed.

    >>> report("run").report.name
    'report.html'
    """
    require_charts()
    folders = [Path(runs)] if isinstance(runs, str | os.PathLike) else [Path(run) for run in runs]
    if not folders:
        raise NetadaptError("no run to report on", hint="name a directory given with -o", code="usage")
    file = folders[0] / REPORT_FILE if output is None else Path(output)
    recorded = [read_run(folder, name) for folder, name in zip(folders, _names(folders), strict=True)]
    if output is not None:
        refuse_existing(file, overwrite)
    return _write(recorded, file, interactive=interactive)


def require_charts() -> None:
    """Raise NetadaptError unless charts can be drawn here."""
    if not charts.available():
        hint = "pip install 'netadapt-onnx[report]'"
        raise NetadaptError("reports need vl-convert-python", hint=hint, code="missing-package")


def _write(runs: Sequence[AnyRun], file: Path, *, interactive: bool = False, reloads: bool = False) -> Report:
    """Write the page about these runs."""
    renderer = ChartRenderer(interactive=interactive)
    several = len(runs) > 1
    parts = comparison(runs, renderer.figure) if several else []
    for run in runs:
        parts += _sections(run, renderer.figure, with_name=several)
    names = tuple(run.name for run in runs)
    document = {"schema": 1, "runs": [msgspec.to_builtins(run, enc_hook=str) for run in runs]}
    title = f"netadapt-onnx: {', '.join(names)}"
    text = page(title, parts, document, interactive=interactive, reloads=reloads).encode()
    write_atomically(file, text)
    return Report(file, names, len(text), tuple(renderer.failures))


def _names(folders: Sequence[Path]) -> list[str]:
    """The folders' names; with the parent's name where several are equal, numbered where those are equal too."""
    resolved = [folder.resolve() for folder in folders]
    last = [folder.name for folder in resolved]
    names = [p.name if last.count(p.name) == 1 else f"{p.parent.name}/{p.name}" for p in resolved]
    return [name if names.count(name) == 1 else f"{name} ({i})" for i, name in enumerate(names, 1)]


def read_run(run: Path, name: str = "") -> AnyRun:
    """Read a run of `adapt`, or a finished one of `scale`.

    Args:
        run: The run's directory.
        name: What the report calls it; by default the folder's name.

    Raises:
        NetadaptError: The folder is no run, one of `scale` has no result yet, or the files are damaged.
    """
    recorded = read_recorded_run(run, name or run.resolve().name)
    return (read_scale_run if recorded.command == "scale" else read_adapt_run)(recorded, run)


def _sections(run: AnyRun, draw: Draw, *, with_name: bool) -> list[str]:
    if isinstance(run, ScaleRun):
        return scale_sections(run, draw, with_name=with_name)
    return adapt_sections(run, draw, with_name=with_name)


def write_report(run: Path, *, live: bool = False) -> tuple[str, ...]:
    """Write RUN/report.html, where charts can be drawn. Returns notes on what could not be.

    Args:
        run: The run directory.
        live: Whether the page loads itself again every few seconds, because the run is on.

    Raises:
        NetadaptError: The run cannot be read back; nothing else that goes wrong here costs the run.
    """
    if not charts.available():
        return ()
    file = run / REPORT_FILE
    try:
        with stage("drawing the report"):
            return _write([read_run(run)], file, reloads=live).notes
    except NetadaptError:
        raise
    except Exception as error:
        return (f"{file} was not written: {type(error).__name__}: {escape_joined(str(error))[:200]}",)
