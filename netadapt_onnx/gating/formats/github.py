"""`gate` for GitHub Actions: annotations as workflow commands, and a table in the step's summary."""

from __future__ import annotations

import os
from pathlib import Path

from netadapt_onnx.gating.formats import cells
from netadapt_onnx.gating.formats.escape_names import printable
from netadapt_onnx.gating.formats.markdown import markdown
from netadapt_onnx.gating.result import Gate

# GitHub shows this many of a step's errors, and this much of its summary.
MOST_ANNOTATIONS = 10
MOST_SUMMARY_BYTES = 1_000_000


def github(gate: Gate) -> str:
    """Format an annotation for each failure, the worst ten, and one line about all models."""
    annotations: list[tuple[float, str, str, str]] = []
    for reason, paths in cells.obstacles(gate).items():
        named = _in_repository(paths[0])
        message = reason if str(paths[0]) in reason else f"{cells.listed(paths, str)}: {reason}"
        annotations.append((float("inf"), named, "not checked", message))
    for model in gate.models:
        path = _in_repository(model.path)
        for check in (check for check in model.failures if check.conclusive):
            title = f"{check.limit} beyond its limit"
            blamed = [f"{b.layer} ({cells.growth(b)})" for b in model.blame]
            causes = f"; most by {', '.join(blamed[:3])}" if blamed else ""
            advice = f" {check.advice}" if check.advice else ""
            annotations.append((check.excess, path, title, f"{path}: {check.message}{causes}.{advice}"))
    annotations.sort(key=lambda one: -one[0])
    lines = [
        f"::error file={_property(path)},title={_property(title)}::{_data(message)}"
        for _, path, title, message in annotations[:MOST_ANNOTATIONS]
    ]
    if len(annotations) > MOST_ANNOTATIONS:
        lines.append(f"{len(annotations) - MOST_ANNOTATIONS} more are in the step's summary")
    return "\n".join([*lines, cells.headline(gate)])


def summarise(gate: Gate) -> None:
    """Append a table to the step's summary, if this runs in a step of GitHub Actions."""
    place = os.environ.get("GITHUB_STEP_SUMMARY")
    if not place:
        return
    body = markdown(gate).encode()
    if len(body) > MOST_SUMMARY_BYTES:
        shortened = body[: body.rindex(b"\n", 0, MOST_SUMMARY_BYTES)]
        body = shortened + b"\n\nThe rest is too long to be shown here.\n"
    with Path(place).open("ab") as file:
        file.write(body + b"\n")


def _in_repository(path: Path) -> str:
    """The path from the repository's root, by which GitHub places annotations."""
    root = os.environ.get("GITHUB_WORKSPACE")
    if root and path.absolute().is_relative_to(root):
        path = path.absolute().relative_to(root)
    return path.as_posix()


def _data(text: str) -> str:
    return printable(text, 2000).replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")


def _property(text: str) -> str:
    return _data(text).replace(":", "%3A").replace(",", "%2C")
