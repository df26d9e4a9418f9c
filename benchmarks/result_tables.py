"""The tables of docs/ that are made from benchmarks/results/*.json: one function of a file's rows for each table.

`make docs` writes them between `<!-- results: NAME -->` and `<!-- end of results -->`, with the date and the machine;
the benchmarks print the same tables.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import result_files
from earlier_tables import earlier_quality, ranks
from markdown_tables import Cells, table

Row = Mapping[str, Any]

MB = 10**6


def _percents(errors: Mapping[str, float]) -> str:
    return " / ".join(f"{100 * errors[key]:.1f}" for key in ("mean", "p95", "max"))


def tables(rows: Sequence[Row]) -> str:
    """Errors of latency tables, mean / 95th percentile / maximum, in percent."""
    headers = [
        "network",
        "ms",
        "build s",
        "(a) layers apart",
        "(b) scaled",
        "(c) this table",
        "repeatability",
        "Kendall",
    ]
    return table(
        headers,
        [
            [
                row["network"],
                f"{row['reference_ms']:.2f}",
                f"{row['build_s']:.0f}",
                *(_percents(row[key]) for key in ("naive", "scaled", "table", "repeatability")),
                f"{row['kendall']:.3f}",
            ]
            for row in rows
        ],
    )


def table_kinds(rows: Sequence[Row]) -> str:
    """Mean and largest errors of tables by the kind of version, in percent, for each table that was built."""

    def joined(errors: Sequence[float]) -> str:
        return " and ".join(f"{error:.1f}" if error < 10 else f"{error:.0f}" for error in errors)

    def cell(errors: Mapping[str, Sequence[float]]) -> str:
        return joined(errors["mean"]) + (f"; at worst {joined(errors['max'])}" if "max" in errors else "")

    headers = ["kind of version", "of a search alone", "all kinds"]
    return table(headers, [[row["kind"], cell(row["search_alone"]), cell(row["all_kinds"])] for row in rows])


def steps(rows: Sequence[Row]) -> str:
    """Cuts to the best counts of the staircase and to plain multiples."""
    lines: list[Cells] = []
    for i, row in enumerate(rows):
        before = rows[i - 1] if i else {}
        again = row["target"] == before.get("target")
        counts = "auto" if row["step"] == "auto" else f"of {row['step']}"
        lines.append(
            [
                "" if again else f"{row['target']:g}x",
                f"{counts}, again" if again and row["step"] == before["step"] else counts,
                *(f"{row[key]:.3f}x" for key in ("macs", "table", "predicted")),
                f"{row['measured']:.3f}x ({row['ci95'][0]:.3f}-{row['ci95'][1]:.3f})",
            ]
        )
    return table(["target", "counts", "macs", "table alone", "predicted", "measured (95%)"], lines)


NETWORKS = {
    "convnet": "5-layer ConvNet",
    "resnet20": "ResNet-20, folded",
    "resnet20-bn": "ResNet-20, BatchNorm",
    "mobilenet": "MobileNetV1-like",
    "efficientnet-lite0": "EfficientNet-Lite0",
}


def search_quality(rows: Sequence[Row]) -> str:
    """Accuracy of searches and of other methods, a table for each network and budget, a row for each training."""
    parts = []
    for network, budget in dict.fromkeys((row["network"], row["budget"]) for row in rows):
        cells = [row for row in rows if (row["network"], row["budget"]) == (network, budget)]
        metric = next((row["metric"] for row in cells if "metric" in row), "")
        original = next((f", {100 * row['original']:.2f} before" for row in cells if "original" in row), "")
        what = "agreement with the original" if metric == "agreement" else f"test accuracy{original}"
        headers = ["method", "final training", "test", "spread", "before training", "latency", "macs", "search (CPU s)",
                   "training (CPU s)", "seeds"]  # fmt: skip
        text = table(headers, [_quality_cells(row) for row in cells])
        parts.append(f"**{NETWORKS.get(network, network)}, {budget}** ({what})\n\n{text}")
    return "\n\n".join(parts)


def _quality_cells(row: Row) -> list[str]:
    training = f"the same, {row['steps']} steps" if row.get("steps") else row["training"]
    if "failure" in row:
        return [row["method"], training, row["failure"], *[""] * 7]
    # With a preset's own training the search includes it, and what it is before cannot be told.
    own = row["training"] == "own"
    return [
        row["method"],
        training,
        f"{100 * row['test']:.2f}",
        f"{100 * (max(row['tests']) - min(row['tests'])):.2f}" if row["seeds"] > 1 else "",
        "" if own else f"{100 * row['before_training']:.2f}",
        ", ".join(f"{share:.3f}x" for share in row["latency"]),
        f"{row['macs']:.3f}x",
        f"{row['search_cpu_s']:.0f}",
        "within" if own else f"{row['training_cpu_s']:.0f}",
        str(row["seeds"]),
    ]


def search_speed(rows: Sequence[Row]) -> str:
    """CPU seconds of searches for one budget, by preset and of the official code, and its seconds over ours."""
    lines: list[Cells] = []
    for row in rows:
        official = [other for other in rows if other["network"] == row["network"] and other["method"] == "official"]
        name = f"official, {row['steps']} steps a proposal" if "steps" in row else row["method"]
        cells = [NETWORKS.get(row["network"], row["network"]), row["budget"], name]
        if "failure" in row:
            lines.append([*cells, row["failure"], *[""] * 5])
            continue
        iteration = row["iteration_cpu_s"]
        ratios = [f"{other['search_cpu_s'] / row['search_cpu_s']:.1f}x" for other in official if other.get("met")]
        lines.append(
            [
                *cells,
                f"{row['search_cpu_s']:.1f}",
                f"{row['search_s']:.1f}",
                str(row["iterations"]),
                "" if iteration is None else f"{iteration:.1f}",
                f"{row['macs']:.3f}x" + ("" if row["met"] else ", not within"),
                "" if row["method"] == "official" else ", ".join(ratios),
            ]
        )
    headers = ["network", "budget", "search", "CPU s", "s", "iterations", "CPU s per iteration", "macs",
               "the official code takes"]  # fmt: skip
    return table(headers, lines)


def search_lazy(rows: Sequence[Row]) -> str:
    """How often lazy ranking chooses the winner of the full ranking, and what it evaluates for that."""
    headers = ["network", "budget", "seed", "the same winner", "proposals evaluated"]
    return table(
        headers,
        [
            [
                NETWORKS.get(row["network"], row["network"]),
                row["budget"],
                str(row["seed"]),
                f"{row['same']} of {row['iterations']} iterations",
                f"{row['evaluated']} of {row['proposals']} ({100 * row['evaluated'] / max(1, row['proposals']):.0f}%)",
            ]
            for row in rows
        ],
    )


SCALE_METHODS = {"neuralscale": "NeuralScale", "uniform": "uniform", "morphnet": "MorphNet"}


def scaling(rows: Sequence[Row]) -> str:
    """Accuracy of networks that were trained from scratch, by size and method: mean and deviation over seeds."""

    def cell(row: Row) -> str:
        spread = f"± {100 * row['std']:.2f}" if row.get("std") is not None else f"({row['seeds']} seeds)"
        return f"{100 * row['mean']:.2f} {spread}"

    methods = list(dict.fromkeys(row["method"] for row in rows))
    sizes = list(dict.fromkeys(row["target"] for row in rows))
    cells = {(row["target"], row["method"]): cell(row) for row in rows}
    lines = [[size.removeprefix("params="), *(cells.get((size, method), "") for method in methods)] for size in sizes]
    return table(["parameters", *(SCALE_METHODS.get(method, method) for method in methods)], lines)


def recovery(rows: Sequence[Row]) -> str:
    """Test accuracy and CPU seconds of each way to recover from a cut."""
    columns = list(dict.fromkeys(row["file"] for row in rows))
    ways = list(dict.fromkeys(row["way"] for row in rows))
    cells = {(row["way"], row["file"]): f"{100 * row['accuracy']:.2f} ({row['cpu_s']:.0f})" for row in rows}
    lines = [[way, *(cells.get((way, column), "") for column in columns)] for way in ways]
    return table(["test accuracy (CPU s)", *columns], lines)


def training_steps(rows: Sequence[Row]) -> str:
    """CPU seconds of a training step, ours and the exported module's."""
    headers = ["network", "ours (CPU s)", "native (CPU s)", "ratio"]
    return table(
        headers, [[r["model"], f"{r['ours_s']:.3f}", f"{r['native_s']:.3f}", f"{r['ratio']:.3f}"] for r in rows]
    )


def training_exports(rows: Sequence[Row]) -> str:
    """The largest difference between torch and onnxruntime, before and after a training, by exporter."""
    exporters = list(dict.fromkeys(row["exporter"] for row in rows))
    results = {(row["model"], row["exporter"]): row for row in rows}
    lines: list[Cells] = []
    for model in dict.fromkeys(row["model"] for row in rows):
        each: list[Row] = [results.get((model, exporter), {}) for exporter in exporters]
        parameters = next((row["parameters"] for row in each if "parameters" in row), 0)
        reached = {f"{row['reached']} of {row['weights']}" for row in each if "reached" in row}
        cells = [cell for row in each for cell in _differences(row)]
        lines.append([model, f"{parameters / 1e6:.1f}", " / ".join(sorted(reached)), *cells])
    kinds = [f"{exporter}: {what}" for exporter in exporters for what in ("forward", "trained, written back")]
    return table(["network", "parameters (M)", "weights with a gradient", *kinds], lines)


def _differences(row: Row) -> list[str]:
    if "failure" in row:
        return [row["failure"], "no"]
    return [f"{row[key]:.1e}" if key in row else "" for key in ("forward", "trained")]


def gate_cost(rows: Sequence[Row]) -> str:
    """What `gate` takes, the best of all runs over the same number of models."""
    lines: list[Cells] = []
    for models in dict.fromkeys(row["models"] for row in rows):
        runs = [row for row in rows if row["models"] == models]
        best = {key: min(row[key] for row in runs) for key in ("seconds", "cpu_s")}
        peak = max(row["peak_bytes"] for row in runs) / MB
        size = runs[0]["size_bytes"] / MB
        lines.append([str(models), f"{size:.1f}", f"{best['seconds']:.2f}", f"{best['cpu_s']:.2f}", f"{peak:.0f}"])
    return table(["models", "MB", "s", "CPU s", "peak MB"], lines)


def gate_latency(rows: Sequence[Row]) -> str:
    """How many runs of `gate` failed, by what the model costs more than its baseline."""
    lines: list[Cells] = []
    for width in dict.fromkeys(row["width"] for row in rows):
        runs = [row for row in rows if row["width"] == width]
        slower = runs[0]["slower"]
        model = f"a layer widened to {width}: {100 * slower:+.1f}%" if slower else "the same model"
        failed = sum(not row["ok"] for row in runs)
        seconds = sum(row["seconds"] for row in runs) / len(runs)
        lines.append([model, runs[0]["limit"], f"{failed} of {len(runs)}", f"{seconds:.0f}"])
    return table(["model", "limit", "failed", "s per run"], lines)


def surgery_speed(rows: Sequence[Row]) -> str:
    """What `prune` takes, and where the time of one run goes."""
    costs = [
        [
            row["model"],
            f"{row['size_bytes'] / MB:.1f}",
            f"{row['seconds']:.2f}",
            f"{row['cpu_s']:.2f}",
            f"{row['peak_bytes'] / MB:.0f}",
            f"{row['peak_bytes'] / row['size_bytes']:.1f}",
            f"{row['macs']:.3f}x",
            f"exit code {row['exit_code']}" if row["exit_code"] else "",
        ]
        for row in rows
    ]
    stages = [[row["model"], *(f"{seconds:.2f}" for seconds in row["stages_s"].values())] for row in rows]
    return "\n\n".join(
        [
            table(["model", "MB", "s", "CPU s", "peak MB", "peak / size", "macs left", ""], costs),
            table(["seconds", *rows[0]["stages_s"]], stages),
        ]
    )


SUITES = {
    "torchvision": "classifiers of torchvision",
    "timm": "one small member of each family of timm",
    "files": "ONNX files of several exporters",
}


def coverage_summary(rows: Sequence[Row]) -> str:
    """How many results of each pruner are smaller and right, and medians over these."""

    def median(value: float | None, form: str) -> str:
        return "-" if value is None else form.format(value)

    headers = ["models", "ratio", "", "smaller and runs", "median macs", "equal: yes / no / ?", "median s",
               "median s of proof"]  # fmt: skip
    return table(
        headers,
        [
            [
                SUITES[row["suite"]],
                ", ".join(f"{ratio:g}" for ratio in row["ratios"]),
                f"{row['pruner']} ({row['exporter']})",
                f"{row['smaller']} of {row['models']}",
                median(row["macs"], "{:.3f}x"),
                f"{row['equal']} / {row['different']} / {row['unknown']}",
                median(row["seconds"], "{:.1f}"),
                median(row["proof_seconds"], "{:.1f}"),
            ]
            for row in rows
        ],
    )


def coverage(rows: Sequence[Row]) -> str:
    """What each pruner made of each model of a suite, and a list of what went wrong."""
    columns = list(dict.fromkeys((row["pruner"], row["exporter"]) for row in rows))
    cells = {(row["model"], row["pruner"], row["exporter"]): _coverage_cell(row) for row in rows}
    models = sorted({row["model"] for row in rows})
    lines = [[model, *(cells.get((model, *column), "") for column in columns)] for model in models]
    text = table(["macs, equal, s", *(f"{pruner} ({exporter})" for pruner, exporter in columns)], lines)
    failures = [
        f"- {row['model']}, {row['pruner']} ({row['exporter']}): {' '.join(failure.split())}"
        for row in rows
        if (failure := _coverage_failure(row))
    ]
    return "\n".join([text, "", *failures]) if failures else text


def _coverage_cell(row: Row) -> str:
    if row.get("macs") is None:
        return "fails"
    if not row["smaller"]:
        return "unchanged"
    equal = {True: "yes", False: "NO", None: "?"}[row["equal"]]
    return f"{row['macs']:.3f} {equal} {row['seconds']:.1f}"


def _coverage_failure(row: Row) -> str:
    if row.get("equal") is False:
        return f"differs by {row['difference']:.1e} of its standard deviation {row['note']}"
    failure: str = row.get("failure", "")
    return failure


# By the name of the file of results; a benchmark that was never recorded has none yet.
TABLES: dict[str, Callable[[Sequence[Row]], str]] = {
    "tables": tables,
    "table_kinds": table_kinds,
    "steps": steps,
    "search_quality_35": earlier_quality,
    "search_ranks": ranks,
    "search_quality": search_quality,
    "search_speed": search_speed,
    "search_lazy": search_lazy,
    "scaling": scaling,
    "recovery": recovery,
    "training_steps": training_steps,
    "training_exports": training_exports,
    "gate_cost": gate_cost,
    "gate_latency": gate_latency,
    "surgery_speed": surgery_speed,
    "coverage_summary": coverage_summary,
    "coverage_torchvision": coverage,
    "coverage_files": coverage,
}


def block(name: str) -> str:
    """The table of a file of results, then when, on what and by which command it was measured."""
    document = result_files.read(name)
    command = f"{document['benchmark']} {document['options']}".strip()
    return f"{TABLES[name](document['rows'])}\n\n*{document['date']}, {described(document['machine'])}; `{command}`.*"


def described(machine: Mapping[str, Any]) -> str:
    """A machine in words."""
    threads = {1: "one thread", None: ""}.get(machine.get("threads"), f"{machine.get('threads')} threads")
    cores = [f"{machine['cores']} cores"] if "cores" in machine else []
    details = ", ".join([*cores, *([machine["conditions"]] if "conditions" in machine else [])])
    where = f"{threads} of {machine['processor']}" if threads else machine["processor"]
    versions = {"Python": machine.get("python"), **machine.get("packages", {})}
    known_versions = [f"{name} {number}" for name, number in versions.items() if number]
    return ", ".join([f"{where} ({details})" if details else where, *known_versions])
