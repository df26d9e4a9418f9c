"""The sections that tell of a run of `scale`."""

from __future__ import annotations

from netadapt_onnx.common import render
from netadapt_onnx.reporting.page import Draw, paragraph, section, table
from netadapt_onnx.reporting.reproduction import reproduction
from netadapt_onnx.reporting.scaled_story import ScaledStory
from netadapt_onnx.scaling.result import ScaledModel

# In the order of the question: how good, how large, why; anything else that a run left comes after.
ORDER = ("accuracy-parameters", "accuracy-latency", "laws", "widths", "filters")


def told(story: ScaledStory, draw: Draw, *, headed: bool) -> list[str]:
    """A run from its networks to how it can be repeated; `headed` by its name where there are several."""
    result, name = story.result, f"{story.name}: " if headed else ""
    shown = sorted(story.drawn, key=lambda chart: (ORDER.index(chart) if chart in ORDER else len(ORDER), chart))
    accuracies = [draw(story.drawn[chart]) for chart in shown if chart.startswith("accuracy")]
    others = [draw(story.drawn[chart]) for chart in shown if not chart.startswith("accuracy")]
    notes = [paragraph(note) for note in result.notes]
    parts = [
        (
            "networks",
            [table(_headers(story), [_row(made) for made in result.models], "numbers named"), *notes]
            if result.models
            else notes,
        ),
        ("accuracy by size", accuracies),
        ("widths", [_widths(story)] if result.models else []),
        ("how widths follow the size", [*others, *([_laws(story)] if result.groups else [])]),
        ("how to repeat it", [reproduction(story.identity, story.about)]),
    ]
    return [section(name + title, *inside) for title, inside in parts if inside]


def _headers(story: ScaledStory) -> list[str]:
    found = next((made.accuracy for made in story.result.models if made.accuracy is not None), None)
    accuracy = "accuracy" if found is None else f"{found.metric} ({found.split})"
    return ["target", "method", accuracy, "seeds", "latency", "params", "macs", "file size", "peak activations"]


def _row(made: ScaledModel) -> list[object]:
    cost, found = made.resources, made.accuracy
    share = "" if made.latency_ratio is None else f" ({made.latency_ratio:.3f}x)"
    warm_up = "" if made.warmup_epochs is None else f", {made.warmup_epochs} epochs first"
    accuracy = "not trained"
    if found is not None:
        values = [render.score(found.metric, value) for value in (found.mean, found.std)]
        accuracy = " ± ".join(values)
    return [
        made.target,
        made.method + warm_up,
        accuracy,
        "" if found is None else len(found.values),
        render.milliseconds(cost.latency_ms) + share,
        render.count(cost.params),
        render.count(cost.macs),
        render.size(cost.size_bytes),
        render.size(cost.memory_bytes),
    ]


def _widths(story: ScaledStory) -> str:
    models = story.result.models
    rows = [[group, *(made.widths[group] for made in models)] for group in models[0].widths]
    return table(["group", *(f"{made.target} {made.method}" for made in models)], rows)


def _laws(story: ScaledStory) -> str:
    rows = [
        [law.name, f"{law.alpha:.4g}", f"{law.beta:.3f}", law.rows, "" if law.r2 is None else f"{law.r2:.3f}"]
        for law in story.result.groups
    ]
    return paragraph("width = alpha * parameters^beta, fitted to so many records") + table(
        ["group", "alpha", "beta", "records", "r2"], rows
    )
