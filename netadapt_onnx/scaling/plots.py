"""The charts of a run of `scale`: accuracies, widths by iteration, remaining filters while pruning, laws."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from netadapt_onnx.common import charts
from netadapt_onnx.common.json_output import write_json
from netadapt_onnx.common.progress import stage
from netadapt_onnx.errors import NetadaptError
from netadapt_onnx.scaling.neuralscale import DescentResult
from netadapt_onnx.scaling.power_law import Law
from netadapt_onnx.scaling.result import ScaledModel

# The number of points at which a fitted curve is drawn.
CURVE_POINTS = 40
LEGEND = {"symbolLimit": 0, "columns": {"expr": "length(domain('color')) > 16 ? 2 : 1"}, "labelLimit": 140}


@stage("drawing charts")
def write_plots(folder: Path, models: Sequence[ScaledModel], law: Law, descent: DescentResult | None) -> list[str]:
    """Write all charts for which there are data.

    Args:
        folder: Where each chart is written as its Vega-Lite specification (NAME.json, which the report embeds) and,
            where charts can be rendered, as NAME.svg and NAME.png.
        models: The networks of the run.
        law: The law of widths; empty where the method has none.
        descent: The descents that found the law, if there were any.

    Returns:
        Notes for the user on charts that could not be rendered.
    """
    specs = plot_specs(models, law, descent)
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


def plot_specs(models: Sequence[ScaledModel], law: Law, descent: DescentResult | None) -> dict[str, charts.Spec]:
    """Vega-Lite specifications by name: accuracies by size, then the descent's widths, filters and laws."""
    specs = _accuracies(models)
    if descent is not None:
        specs |= _descents(descent)
        if law.fitted:
            specs["laws"] = _laws(law, descent)
    return specs


def _accuracies(models: Sequence[ScaledModel]) -> dict[str, charts.Spec]:
    """Accuracy against parameters and, where it was measured, against latency; error bars show the seeds' deviation."""
    rows = [
        {
            "parameters": network.resources.params,
            "latency (ms)": network.resources.latency_ms,
            network.accuracy.metric: network.accuracy.mean,
            "std": network.accuracy.std,
            "method": network.method
            if network.warmup_epochs is None
            else f"{network.method}, {network.warmup_epochs} epochs first",
        }
        for network in models
        if network.accuracy is not None
    ]
    metric = next((network.accuracy.metric for network in models if network.accuracy is not None), "")
    specs = {}
    for x in ("parameters", "latency (ms)"):
        measured = [row for row in rows if row[x] is not None]
        if measured:
            title = f"{metric} against {x}"
            spec = charts.means(measured, x, metric, "std", series="method", title=f"{title}: mean and deviation")
            specs[f"accuracy-{x.split()[0]}"] = _short_numbers(spec)
    return specs


def _descents(descent: DescentResult) -> dict[str, charts.Spec]:
    specs = {}
    if len(descent.widths) > 1:
        widths = [
            {"iteration": i, "width": width, "group": name}
            for i, by_group in enumerate(descent.widths)
            for name, width in by_group.items()
        ]
        title = "widths at the original's size, by iteration of the descent"
        specs["widths"] = _by_depth(charts.lines(widths, "iteration", "width", series="group", title=title))
        axis = {"values": list(range(len(descent.widths))), "format": "d"}
        specs["widths"]["layer"][0]["encoding"]["x"]["axis"] |= axis
    record = descent.records[-1]
    filters = [
        {"removed since the first record": float(record.widths[0].sum() - row.sum()), "filters": width, "group": name}
        for row in record.widths
        for name, width in zip(record.names, row.tolist(), strict=True)
    ]
    if filters:
        axes = ("removed since the first record", "filters")
        title = "filters left while pruning (last iteration)"
        specs["filters"] = _by_depth(charts.lines(filters, *axes, series="group", title=title, points=False))
    return specs


def _laws(law: Law, descent: DescentResult) -> charts.Spec:
    """The records of the last descent with the power laws through them, on logarithmic axes."""
    record = descent.records[-1]
    points = [
        {"parameters": float(tau), "width": float(width), "group": name}
        for tau, row in zip(record.tau, record.widths, strict=True)
        for name, width in zip(record.names, row, strict=True)
    ]
    curves = [
        {"parameters": float(tau), "width": width, "group": name}
        for tau in np.geomspace(record.tau.min(), record.tau.max(), CURVE_POINTS)
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
    """Colour groups by their depth, because there may be more of them than a palette has distinct colours."""
    for layer in spec["layer"]:
        layer["encoding"]["color"] |= {"type": "ordinal", "scale": {"scheme": "viridis"}, "legend": LEGEND}
    return spec
