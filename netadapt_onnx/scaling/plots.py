"""What a run of `scale` came to, as charts: accuracies, widths by iteration, filters left while pruning, laws."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from netadapt_onnx import charts
from netadapt_onnx.scaling.law import Law
from netadapt_onnx.scaling.methods import Descent
from netadapt_onnx.scaling.result import ScaledModel

# Points of a fitted curve.
CURVE = 40


def drawn(folder: Path, models: Sequence[ScaledModel], law: Law, descent: Descent | None) -> list[str]:
    """Write all charts that there are data for into `folder`; returns what to tell the user."""
    specs = {
        **_accuracies(models),
        **({} if descent is None else _descents(descent)),
        **({} if descent is None or not law.fitted else {"laws": _laws(law, descent)}),
    }
    if not specs:
        return []
    if not charts.available():
        return [charts.MISSING]
    folder.mkdir(exist_ok=True)
    for name, spec in specs.items():
        charts.write(spec, folder / name)
    return []


def _accuracies(models: Sequence[ScaledModel]) -> dict[str, charts.Spec]:
    """Accuracy against parameters and, where it was measured, against latency; bars are the seeds' deviation."""
    rows = [
        {
            "parameters": made.resources.params,
            "latency (ms)": made.resources.latency_ms,
            made.accuracy.metric: made.accuracy.mean,
            "std": made.accuracy.std,
            "method": made.method
            if made.warmup_epochs is None
            else f"{made.method}, {made.warmup_epochs} epochs first",
        }
        for made in models
        if made.accuracy is not None
    ]
    metric = next((made.accuracy.metric for made in models if made.accuracy is not None), "")
    found = {}
    for x in ("parameters", "latency (ms)"):
        known = [row for row in rows if row[x] is not None]
        if known:
            title = f"{metric} against {x}"
            found[f"accuracy-{x.split()[0]}"] = charts.means(known, x, metric, "std", series="method", title=title)
    return found


def _descents(descent: Descent) -> dict[str, charts.Spec]:
    widths = [
        {"iteration": i, "width": width, "group": name}
        for i, at in enumerate(descent.widths)
        for name, width in at.items()
    ]
    last = descent.records[-1]
    left = [
        {"parameters": float(tau), "filters left": float(width), "group": name}
        for tau, row in zip(last.tau, last.widths, strict=True)
        for name, width in zip(last.names, row, strict=True)
    ]
    made = {
        "widths": charts.lines(widths, "iteration", "width", series="group", title="widths at the original's size"),
        "filters": charts.lines(left, "parameters", "filters left", series="group", title="filters left while pruning"),
    }
    return made if left else {"widths": made["widths"]}


def _laws(law: Law, descent: Descent) -> charts.Spec:
    """The records of the last descent with the power laws through them, on logarithmic axes."""
    record = descent.records[-1]
    points = [
        {"parameters": float(tau), "width": float(width), "group": name}
        for tau, row in zip(record.tau, record.widths, strict=True)
        for name, width in zip(record.names, row, strict=True)
    ]
    curves = [
        {"parameters": float(tau), "width": width, "group": name}
        for tau in np.geomspace(record.tau.min(), record.tau.max(), CURVE)
        for name, width in law.widths(float(tau)).items()
    ]
    axes = ("parameters", "width")
    return charts.points_and_lines(
        points, curves, *axes, series="group", title="width = alpha * parameters^beta", logarithmic=axes
    )
