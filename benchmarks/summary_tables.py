"""The two short tables of README.md, from the same files of results as the long ones in docs/."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import result_files
from markdown_tables import table
from result_tables import NETWORKS

Row = Mapping[str, Any]

# The methods of `benchmarks/search_quality.py` that are shown; a method without rows is left out.
METHODS = {
    "balanced": "netadapt-onnx",
    "uniform": "uniform widths",
    "torch-pruning/8": "Torch-Pruning, multiples of 8",
    "torch-pruning/16": "Torch-Pruning, multiples of 16",
}
PRUNERS = {
    ("netadapt-onnx", "legacy"): "netadapt-onnx",
    ("netadapt-onnx", "file"): "netadapt-onnx",
    ("torch-pruning", "module"): "Torch-Pruning (on the module)",
    ("onnxsim", "legacy"): "onnxsim",
    ("onnxsim", "file"): "onnxsim",
}
BUDGET = "latency=0.5x"


def accuracy() -> str:
    """Accuracy of methods at one budget for measured latency, after the same training."""
    document = result_files.read("search_quality")
    rows = [row for row in document["rows"] if row["budget"] == BUDGET and row["training"] == "same" and "test" in row]
    methods = {key: name for key, name in METHODS.items() if any(row["method"] == key for row in rows)}
    lines = []
    for network in dict.fromkeys(row["network"] for row in rows):
        cells = {row["method"]: row for row in rows if row["network"] == network}
        original = next(row["original"] for row in cells.values())
        name = NETWORKS[network]
        if any(row["metric"] == "agreement" for row in cells.values()):
            name = f"{name}, without labels: agreement"
        lines.append([name, f"{100 * original:.1f}%", *_scores(cells, methods)])
    return table(["accuracy at half the latency", "original", *methods.values()], lines) + "\n\n" + _measured(document)


def _scores(cells: Mapping[str, Row], methods: Mapping[str, str]) -> list[str]:
    best = max(row["test"] for method, row in cells.items() if method in methods)
    texts = []
    for key in methods:
        row = cells.get(key)
        if row is None:
            texts.append("")
            continue
        latency = sum(row["latency"]) / len(row["latency"])
        text = f"{100 * row['test']:.1f}%"
        texts.append(f"{f'**{text}**' if row['test'] == best else text} ({latency:.2f}x)")
    return texts


def coverage() -> str:
    """How many models each tool cuts, how many of the results are shown to be right, and what is left of macs."""
    document = result_files.read("coverage_summary")
    suites = {
        "torchvision": "30 classifiers of torchvision, half of the channels",
        "files": "11 files of other exporters, 0.3",
    }
    names = list(dict.fromkeys(PRUNERS.values()))
    lines = []
    for suite, title in suites.items():
        rows = {
            PRUNERS[key]: row
            for row in document["rows"]
            if row["suite"] == suite and (key := (row["pruner"], row["exporter"])) in PRUNERS
        }
        kinds: list[tuple[str, Callable[[Row], str]]] = [
            (f"{title}: smaller and runs", lambda row: f"{row['smaller']} of {row['models']}"),
            ("shown to equal the masked original", lambda row: f"{row['equal']}"),
            ("multiply-accumulates left, median", lambda row: f"{row['macs']:.2f}x"),
        ]
        lines += [[kind, *_cells(rows, names, text)] for kind, text in kinds]
    return table(["pruning alone", *names], lines) + "\n\n" + _measured(document)


def _cells(rows: Mapping[str, Row], names: Sequence[str], text: Callable[[Row], str]) -> list[str]:
    return [text(rows[name]) if name in rows else "needs the module" for name in names]


def _measured(document: Mapping[str, Any]) -> str:
    return f"*{document['date']}, {document['machine']['processor']}; `{document['benchmark']}`.*"


TABLES: Mapping[str, Callable[[], str]] = {"accuracy": accuracy, "coverage": coverage}
