"""The sections of a report that explain a run of `scale`."""

from __future__ import annotations

from netadapt_onnx.common import render
from netadapt_onnx.reporting.elements import Html, folded, grid, paragraph, section, table
from netadapt_onnx.reporting.page import Draw
from netadapt_onnx.reporting.reproduction import reproduction
from netadapt_onnx.reporting.run_facts import machine, when
from netadapt_onnx.reporting.scale_run import ScaleRun
from netadapt_onnx.reporting.table_rows import law_rows, width_rows
from netadapt_onnx.scaling.result import ScaledModel

# In the order of the question: how good, how large, why; anything else that a run left comes after.
ORDER = ("accuracy-parameters", "accuracy-latency", "laws", "widths", "filters")


def scale_sections(run: ScaleRun, draw: Draw, *, with_name: bool) -> list[str]:
    """Sections as HTML, from the run's networks to how it can be repeated.

    Args:
        run: A finished run of `scale`.
        draw: Renders a chart as HTML.
        with_name: Whether headings begin with the run's name, because the page holds several runs.
    """
    result, name = run.result, f"{run.name}: " if with_name else ""
    shown = sorted(run.charts, key=lambda chart: (ORDER.index(chart) if chart in ORDER else len(ORDER), chart))
    accuracies = [draw(run.charts[chart]) for chart in shown if chart.startswith("accuracy")]
    others = [draw(run.charts[chart]) for chart in shown if not chart.startswith("accuracy")]
    rows = [_row(network) for network in result.models]
    networks = [table(_headers(run), rows, text=(0, 1))] if rows else []
    parts: list[tuple[str, list[str]]] = [
        ("Networks", [*networks, *(paragraph(note, "note") for note in result.notes)]),
        ("Accuracy by size", [grid("charts", accuracies)] if accuracies else []),
        ("Widths", [folded("Every group", list(result.models[0].widths), _widths(run))] if result.models else []),
        ("How widths follow the size", _laws(run, others)),
        ("How to repeat this run", [reproduction(run.identity, run.about)]),
    ]
    facts = " · ".join([*when(run.about), *machine(run.about)])
    header = [] if with_name or not facts else [paragraph(facts, "soft")]
    return [*header, *(section(name + title, *inside) for title, inside in parts if inside)]


def _headers(run: ScaleRun) -> list[str]:
    scored = next((network.accuracy for network in run.result.models if network.accuracy is not None), None)
    accuracy = "accuracy" if scored is None else f"{scored.metric} ({scored.split})"
    return ["target", "method", accuracy, "seeds", "latency", "params", "MACs", "file size", "peak activations"]


def _row(network: ScaledModel) -> list[object]:
    cost, scores = network.resources, network.accuracy
    share = "" if network.latency_ratio is None else f" ({network.latency_ratio:.3f}x)"
    warm_up = "" if network.warmup_epochs is None else f", {network.warmup_epochs} epochs first"
    spread = () if scores is None else (scores.mean, scores.std)
    accuracy = " ± ".join(render.score(scores.metric, value) for value in spread) if scores else "not trained"
    return [
        network.target,
        network.method + warm_up,
        accuracy,
        "" if scores is None else len(scores.values),
        render.milliseconds(cost.latency_ms) + share,
        render.count(cost.params),
        render.count(cost.macs),
        render.size(cost.size_bytes),
        render.size(cost.memory_bytes),
    ]


def _widths(run: ScaleRun) -> Html:
    rows, headers = width_rows(run.result.models)
    return table(headers, rows)


def _laws(run: ScaleRun, drawn: list[str]) -> list[str]:
    """The law of each group and what it was fitted to."""
    charts: list[str] = [grid("charts", drawn)] if drawn else []
    if not run.result.groups:
        return charts
    laws = table(["group", "alpha", "beta", "records", "r2"], law_rows(run.result.groups))
    text = "The width of a group as a function of the network's parameters, width = alpha * parameters^beta: alpha and "
    text += "beta are fitted to so many records, and r2 says how well (1 is perfect)."
    return [*charts, paragraph(text, "soft"), folded("Every law", run.result.groups, laws)]
