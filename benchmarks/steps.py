"""`step=auto` against plain multiples: MobileNetV2 cut to latency budgets by its table, measured beside the original.

    python benchmarks/steps.py [--network mobilenet_v2] [--out build/tables] [--targets 0.8 0.6 0.4] [--max-time 90]

Every group keeps about the same share of its channels. With `auto` it keeps the largest count that is the best point of
a step of the latency staircase, and the share is the largest that the table predicts to meet the target; with 8 and 16
it keeps a multiple of them, and the share is the largest that has no more macs than `auto`'s. All are timed against the
uncut model in pairs of fresh sessions that take turns, by their undisturbed runs, of which tables are made. As in
`adapt`, what is measured of a cut corrects the predictions that follow it: each target is cut twice, and a row says
what was predicted by the table alone, and with the correction known before that cut was measured. Uses the table of
`benchmarks/tables.py` in `--out`, or builds it. The results are appended to `steps.jsonl` there.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

import netadapt_onnx
from netadapt_onnx.api.source import open_model
from netadapt_onnx.graph.cost import cost
from netadapt_onnx.profilers.table.best_counts import best_counts
from netadapt_onnx.profilers.table.predict import Table
from netadapt_onnx.profilers.timing import TimingPlan, ratio
from netadapt_onnx.surgery.criteria.selection import select
from netadapt_onnx.surgery.resize import resize
from netadapt_onnx.surgery.trace import Trace, trace_model
from result_files import add_record_option, record
from result_tables import steps
from tables import exported

# How often each target is cut to with `auto`.
CUTS = 2
SHARES = np.linspace(1.0, 0.05, 381)
Counts = Mapping[str, Sequence[int]]


def snapped(counts: Counts, share: float) -> dict[str, int]:
    """For each group the largest of its counts that is no more than a share of its channels, or its smallest."""
    return {
        name: next((n for n in choices if n <= share * choices[0] + 1e-9), choices[-1])
        for name, choices in counts.items()
    }


def multiples(trace: Trace, step: int) -> Counts:
    """All channels, and the multiples of a step."""
    return {
        g.name: (g.channels, *(n for n in range(g.channels - 1, g.floor - 1, -1) if n % np.lcm(step, g.step) == 0))
        for g in trace.prunable
    }


def first(counts: Counts, fits: Callable[[Mapping[str, int]], bool]) -> dict[str, int]:
    """The cut of the largest share that fits; then each group gets the next larger count where that still fits."""
    seen: set[tuple[int, ...]] = set()
    widths = snapped(counts, 0.0)
    for share in SHARES:
        candidate = snapped(counts, float(share))
        if tuple(candidate.values()) not in seen and fits(candidate):
            widths = candidate
            break
        seen.add(tuple(candidate.values()))
    for name, choices in counts.items():
        above = [n for n in choices if n > widths[name]]
        if above and fits({**widths, name: above[-1]}):
            widths[name] = above[-1]
    return widths


def main() -> None:
    """Cut, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--network", default="mobilenet_v2")
    parser.add_argument("--out", type=Path, default=Path("build/tables"))
    parser.add_argument("--targets", type=float, nargs="+", default=[0.8, 0.6, 0.4])
    parser.add_argument("--max-time", type=float, default=90.0, help="seconds for all timing")
    add_record_option(parser)
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    model, path = exported(arguments.network, arguments.out), arguments.out / f"{arguments.network}.jsonl"
    trace = trace_model(open_model(model))
    if not path.exists():
        netadapt_onnx.profile(model, path)
    table = Table.load(path, trace.folded.proto)
    auto = {group.name: best_counts(table, trace, group.name) for group in trace.prunable}
    inputs_of = table.header.inputs
    rng = np.random.default_rng(0)
    inputs = {name: rng.standard_normal(shape).astype(np.float32) for name, shape in inputs_of.items()}

    def shapes(widths: Mapping[str, int]) -> Mapping[str, tuple[int, ...]]:
        return trace.resized_shapes(select(trace, widths, "first"))

    def macs(widths: Mapping[str, int]) -> float:
        return cost(trace.folded.proto, shapes(widths)).macs

    uncut_macs = macs({})
    uncut = table.predict_ratio(trace.folded.shapes)
    rows: list[dict[str, Any]] = []
    correction = 1.0

    def timed(target: float, step: str, widths: Mapping[str, int]) -> dict[str, Any]:
        small = resize(trace, select(trace, widths, "l2"))
        seconds = arguments.max_time / len(arguments.targets) / (CUTS + 2)
        plan = TimingPlan(time_cap_s=seconds, undisturbed=True)
        measurement = ratio(small, trace.folded.proto, inputs, plan=plan)
        alone, error = table.predict_with_error(shapes(widths))
        alone /= uncut * table.latency_ms.median_ms
        predicted = alone * correction
        return {
            "network": arguments.network,
            "target": target,
            "step": step,
            "macs": macs(widths) / uncut_macs,
            "table": alone,
            "predicted": predicted,
            "error": error,
            "measured": measurement.median,
            "ci95": measurement.ci95,
            "off": predicted / measurement.median - 1,
            "date": time.strftime("%Y-%m-%d %H:%M"),
        }

    def fast_enough(limit: float) -> Callable[[Mapping[str, int]], bool]:
        return lambda widths: table.predict_ratio(shapes(widths)) / uncut <= limit

    def small_enough(most: float) -> Callable[[Mapping[str, int]], bool]:
        return lambda widths: macs(widths) <= most

    for target in arguments.targets:
        best: dict[str, int] = {}
        for _ in range(CUTS):
            best = first(auto, fast_enough(target / correction))
            rows.append(timed(target, "auto", best))
            correction = rows[-1]["measured"] / rows[-1]["table"]
        for step in (8, 16):
            rows.append(timed(target, str(step), first(multiples(trace, step), small_enough(macs(best)))))
    with (arguments.out / "steps.jsonl").open("a") as file:
        file.write("".join(json.dumps(row) + "\n" for row in rows))
    print(steps(rows))
    if arguments.record:
        record("steps", rows)
    slower = [r for r in rows if r["step"] == "auto" and r["ci95"][0] > 1]
    print(f"auto slower than the uncut model: {len(slower)} of {CUTS * len(arguments.targets)}")


if __name__ == "__main__":
    main()
