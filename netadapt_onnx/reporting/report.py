"""`report`: a run explained in one file, or several runs over each other."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import msgspec

from netadapt_onnx import charts, render
from netadapt_onnx.errors import NetadaptError
from netadapt_onnx.model import refuse_existing
from netadapt_onnx.reporting import figures
from netadapt_onnx.reporting.page import figure, page, paragraph, section, table
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
    overwrite: bool = False,
) -> Report:
    """Write one HTML file about finished runs of `adapt` (by default RUN/report.html); it needs no network.

    Raises NetadaptError for what is not a finished run, an existing file, or where vl-convert is not installed.
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
    parts = _compared(stories) if len(stories) > 1 else []
    for story in stories:
        parts += _told(story, headed=len(stories) > 1)
    title = f"netadapt-onnx: {', '.join(story.name for story in stories)}"
    document = {"schema": 1, "runs": [msgspec.to_builtins(story, enc_hook=str) for story in stories]}
    text = page(title, parts, document).encode()
    write_atomically(file, text)
    return Report(file, tuple(story.name for story in stories), len(text))


def _compared(stories: Sequence[Story]) -> list[str]:
    """The runs' best models over each other, and their outcomes side by side."""
    drawn = [figure(charts.svg(figures.fronts(stories, name))) for name in figures.driven(stories)]
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


def _told(story: Story, *, headed: bool) -> list[str]:
    result = story.result
    name = f"{story.name}: " if headed else ""
    parts = [section(f"{name}what came of it", *_outcome(story))]
    for resource in figures.driven([story]):
        parts.append(
            section(
                f"{name}accuracy against {resource}",
                figure(charts.svg(figures.accuracy_against(story, resource))),
                paragraph(
                    "Proposals and accepted models are judged on held-out samples before the final training; the "
                    f"original and the result on {result.accuracy.split}. Resources of proposals are predictions."
                ),
            )
        )
    parts.append(section(f"{name}iterations", _iterations(story)))
    rows = [[g, *counts, render.ratio(counts[1], counts[0])] for g, counts in result.groups.items()]
    parts.append(
        section(
            f"{name}channels",
            figure(charts.svg(figures.channels(story))),
            table(["group", "before", "after", "left"], rows),
        )
    )
    drawn = figures.predicted_against_measured(story)
    if drawn is not None:
        parts.append(section(f"{name}predicted and measured", figure(charts.svg(drawn)), _latencies(story)))
    parts.append(section(f"{name}how to repeat it", _reproduction(story)))
    return parts


def _outcome(story: Story) -> list[str]:
    result = story.result
    said = []
    for limit in result.limits:
        state = {True: "met", False: "missed", None: "predicted only"}[limit.met]
        said.append(paragraph(f"{limit.budget}: {state}", f"verdict {state.split()[0]}"))
    found = result.accuracy
    rows = render.cost_rows(asdict(result.before), asdict(result.after))
    rows.append([f"{found.metric} ({found.split})", render.percent(found.before), render.percent(found.after), ""])
    return [*said, table(["", "before", "after", "left"], rows), *(paragraph(note) for note in result.notes)]


def _iterations(story: Story) -> str:
    names = figures.driven([story])
    rows = [
        [
            step.iteration,
            step.group,
            f"{step.channels[0]} → {step.channels[1]}",
            len(step.tried),
            *(render.amount(name, step.resources[name]) if name in step.resources else "" for name in names),
            render.percent(step.accepted.accuracy),
        ]
        for step in story.steps
    ]
    return table(["iteration", "group", "channels", "proposals", *names, "held-out accuracy"], rows)


def _latencies(story: Story) -> str:
    found = {"this machine": story.result.latency, **story.result.latencies}
    rows = [
        [
            device,
            *map(render.milliseconds, (latency.before_ms, latency.after_ms, latency.predicted_ms)),
            f"{latency.ratio:.3f}x ({latency.ci95[0]:.3f} to {latency.ci95[1]:.3f})",
            latency.sessions,
        ]
        for device, latency in found.items()
        if latency is not None
    ]
    return table(["device", "before", "after", "predicted", "share (95%)", "sessions"], rows)


def _reproduction(story: Story) -> str:
    import json

    def plain(value: object) -> str:
        return value if isinstance(value, str) else json.dumps(value, default=str)

    versions = story.about.get("versions", {})
    parts = [
        table(["argument", "value"], [[k, plain(v)] for k, v in story.identity.items()], "words"),
        table(["version of", ""], [[k, v] for k, v in versions.items()], "words"),
        table(["device", ""], [[k, plain(v)] for k, v in dict(story.about.get("device", {})).items()], "words"),
    ]
    return "".join(parts)
