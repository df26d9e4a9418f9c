"""What a run of `scale` came to, as charts: accuracies, widths by iteration, filters left while pruning, laws."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from netadapt_onnx.common import charts
from netadapt_onnx.common.json_output import write_json
from netadapt_onnx.common.progress import stage
from netadapt_onnx.errors import NetadaptError
from netadapt_onnx.scaling.law import Law
from netadapt_onnx.scaling.methods import Descent
from netadapt_onnx.scaling.result import ScaledModel

# Points of a fitted curve.
CURVE = 40
LEGEND = {"symbolLimit": 0, "columns": {"expr": "length(domain('color')) > 16 ? 2 : 1"}, "labelLimit": 140}


@stage("drawing charts")
def drawn(folder: Path, models: Sequence[ScaledModel], law: Law, descent: Descent | None) -> list[str]:
    """Write all charts that there are data for into `folder`; returns what to tell the user.

    Each as its Vega-Lite specification (NAME.json, which the report embeds) and, where they can be rendered, as
    NAME.svg and NAME.png.
    """
    specs = figures(models, law, descent)
    if not specs:
        return []
    folder.mkdir(exist_ok=True)
    notes = [] if charts.available() else [charts.MISSING]
    for name, spec in specs.items():
        write_json(folder / f"{name}.json", spec)
        if charts.available():
            try:
                charts.write(spec, folder / name)
            except NetadaptError as error:
                notes.append(error.message)
    return notes


def figures(models: Sequence[ScaledModel], law: Law, descent: Descent | None) -> dict[str, charts.Spec]:
    """Vega-Lite specifications by name: accuracies by size, then what the descent found."""
    found = _accuracies(models)
    if descent is not None:
        found |= _descents(descent)
        if law.fitted:
            found["laws"] = _laws(law, descent)
    return found


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
            spec = charts.means(known, x, metric, "std", series="method", title=f"{title}: mean and deviation")
            found[f"accuracy-{x.split()[0]}"] = _short_numbers(spec)
    return found


def _descents(descent: Descent) -> dict[str, charts.Spec]:
    made = {}
    if len(descent.widths) > 1:
        widths = [
            {"iteration": i, "width": width, "group": name}
            for i, at in enumerate(descent.widths)
            for name, width in at.items()
        ]
        title = "widths at the original's size, by iteration of the descent"
        made["widths"] = _by_depth(charts.lines(widths, "iteration", "width", series="group", title=title))
        axis = {"values": list(range(len(descent.widths))), "format": "d"}
        made["widths"]["layer"][0]["encoding"]["x"]["axis"] |= axis
    record = descent.records[-1]
    left = [
        {"removed since the first record": float(record.widths[0].sum() - row.sum()), "filters": width, "group": name}
        for row in record.widths
        for name, width in zip(record.names, row.tolist(), strict=True)
    ]
    if left:
        axes = ("removed since the first record", "filters")
        title = "filters left while pruning (last iteration)"
        made["filters"] = _by_depth(charts.lines(left, *axes, series="group", title=title, points=False))
    return made


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
    spec = charts.points_and_lines(
        points, curves, *axes, series="group", title="width = alpha * parameters^beta", logarithmic=axes
    )
    spec["layer"][0]["mark"] |= {"size": 12}
    return _short_numbers(_by_depth(spec))


def _short_numbers(spec: charts.Spec) -> charts.Spec:
    """Parameters as 2M rather than 2,000,000."""
    for layer in spec["layer"]:
        axis = layer["encoding"]["x"]
        axis["axis"] |= {"format": "~s"} if axis["field"] == "parameters" else {}
    return spec


def _by_depth(spec: charts.Spec) -> charts.Spec:
    """Groups coloured by their depth: there may be more of them than a palette has colours that differ."""
    for layer in spec["layer"]:
        layer["encoding"]["color"] |= {"type": "ordinal", "scale": {"scheme": "viridis"}, "legend": LEGEND}
    return spec
