"""The results of the coverage benchmark as a Markdown page."""

from __future__ import annotations

import os
import platform
import statistics
from collections import Counter
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

from tabulate import tabulate

Result = dict[str, Any]

OURS = "netadapt-onnx"
TITLES = {
    "torchvision": "torchvision: 30 classifiers",
    "timm": "timm: one small member of each family",
    "files": "ONNX files of several exporters",
}
INTRODUCTION = """\
# Coverage: what can be pruned, and is it right?
Written by `benchmarks/coverage.py`, which says how to repeat it. Weights, biases and BatchNorm statistics are random;
the classifier's outputs stay. In a row: the share of multiply-accumulates left, whether the result equals the original
with the removed channels masked, and seconds of CPU time. Ours is proven on every tensor, which takes its own time. For
the others' results the channels that were kept are read off the biases that are left, and outputs are compared with
those of a proven cut to the same channels (1e-4 of their standard deviation); `?` where they cannot be read off.
An empty cell has not been run."""
VERSIONS = ("onnx", "onnxruntime", "torch", "numpy")


def markdown(results: Sequence[Result]) -> str:
    """The page: how it was measured, then for each suite a summary and a row for each model."""
    dates = sorted({result["time"] for result in results})
    parts = [INTRODUCTION, f"{' to '.join(dates[:1] + dates[1:][-1:])}, {_machine()}."]
    for suite, title in TITLES.items():
        chosen = [result for result in results if result["case"]["suite"] == suite]
        if chosen:
            ratio = ", ".join(f"{r:g}" for r in sorted({result["case"]["ratio"] for result in chosen}))
            parts += [f"## {title}, ratio {ratio}", _summary(chosen), _rows(chosen), _failures(chosen)]
    return "\n\n".join(part for part in parts if part) + "\n"


def _machine() -> str:
    name = platform.processor() or platform.machine()
    try:
        with Path("/proc/cpuinfo").open() as file:
            name = next(line.split(":")[1].strip() for line in file if line.startswith("model name"))
    except (OSError, StopIteration):
        pass
    packages = ", ".join(f"{package} {version(package)}" for package in VERSIONS)
    return f"one thread on {name} ({os.cpu_count()} cores, shared), Python {platform.python_version()}, {packages}"


def _column(result: Result) -> tuple[str, str]:
    return result["case"]["pruner"], result["case"]["exporter"]


def _columns(results: Sequence[Result]) -> list[tuple[str, str]]:
    columns = dict.fromkeys(map(_column, results))
    return sorted(columns, key=lambda column: (column[0] != OURS, column[0], column[1] != "legacy"))


def _works(result: Result) -> bool:
    return bool(result["outcome"].get("smaller"))


def _summary(results: Sequence[Result]) -> str:
    rows = []
    for column in _columns(results):
        own = [result for result in results if _column(result) == column]
        fine = [result["outcome"] for result in own if _works(result)]
        equal = Counter(outcome["equal"] for outcome in fine)
        rows.append(
            [
                f"{column[0]} ({column[1]})",
                f"{len(fine)} of {len(own)}",
                _median(fine, "macs", "{:.3f}x"),
                f"{equal[True]} / {equal[False]} / {equal[None]}",
                _median(fine, "seconds", "{:.1f}"),
                _median(fine, "proof_seconds", "{:.1f}"),
            ]
        )
    heads = ["", "smaller and runs", "median macs", "equal: yes / no / ?", "median s", "median s of proof"]
    return tabulate(rows, heads, tablefmt="github", disable_numparse=True)


def _median(outcomes: Sequence[Result], key: str, form: str) -> str:
    values = [outcome[key] for outcome in outcomes if outcome.get(key) is not None]
    return form.format(statistics.median(values)) if values else "-"


def _rows(results: Sequence[Result]) -> str:
    columns = _columns(results)
    models = sorted({result["case"]["model"] for result in results})
    outcomes = {(result["case"]["model"], *_column(result)): result["outcome"] for result in results}
    rows = [[model, *(_cell(outcomes.get((model, *column))) for column in columns)] for model in models]
    heads = ["macs, equal, s", *(f"{pruner} ({exporter})" for pruner, exporter in columns)]
    return tabulate(rows, heads, tablefmt="github", disable_numparse=True)


def _cell(outcome: Result | None) -> str:
    if outcome is None:
        return ""
    if outcome.get("macs") is None:
        return "fails"
    if not outcome["smaller"]:
        return "unchanged"
    equal = {True: "yes", False: "NO", None: "?"}[outcome["equal"]]
    return f"{outcome['macs']:.3f} {equal} {outcome['seconds']:.1f}"


def _failures(results: Sequence[Result]) -> str:
    """What went wrong, a line each: failures, and results that are not equal."""
    lines = []
    for result in results:
        case, outcome = result["case"], result["outcome"]
        failure = outcome.get("failure", "")
        if outcome.get("equal") is False:
            failure = f"differs by {outcome['difference']:.1e} of its standard deviation {outcome['note']}"
        if failure:
            lines.append(f"- {case['model']}, {case['pruner']} ({case['exporter']}): {' '.join(failure.split())}")
    return "\n".join(lines)
