"""The sections that tell of a run of `adapt`."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict
from typing import Any

from netadapt_onnx import charts, render
from netadapt_onnx.reporting import figures
from netadapt_onnx.reporting.page import folded, paragraph, section, table
from netadapt_onnx.reporting.story import Story

# Values that say no more than their absence does.
UNSAID: tuple[object, ...] = (None, [], {})
Draw = Callable[[charts.Spec], str]


def told(story: Story, draw: Draw, *, headed: bool) -> list[str]:
    """A run from its verdict to how it can be repeated; `headed` by its name where there are several."""
    result, name = story.result, f"{story.name}: " if headed else ""
    names = figures.driven([story])
    parts = [("what came of it", _outcome(story))]
    judged = (
        "Proposals and accepted models are judged on held-out samples before the final training; the original and the "
        f"result on {result.accuracy.split}. Resources of proposals are predictions."
    )
    parts += [
        (f"accuracy against {n}", [draw(figures.accuracy_against(story, n)), paragraph(judged)])
        for n in names
        if figures.shown(story, n)
    ]
    parts.append(("iterations", [_iterations(story)]))
    rows = [[g, *counts, render.ratio(counts[1], counts[0])] for g, counts in result.groups.items()]
    parts.append(("channels", [draw(figures.channels(story)), table(["group", "before", "after", "left"], rows)]))
    for n in [*result.latencies, *result.measured]:
        drawn = [figures.distributions(story, n), figures.predicted_against_measured(story, n), figures.spent(story, n)]
        parts.append(
            (f"{n}: predicted and measured", [_measured(story, n), *(draw(d) for d in drawn if d is not None)])
        )
    curve = figures.training(story)
    parts.append(("final training", [] if curve is None else [draw(curve), _epochs(story)]))
    parts.append(("layers", [_layers(story)] if story.details.layers else []))
    parts.append(("what stays, and why", [_blocked(story)] if story.details.blocked else []))
    parts.append(("how to repeat it", [_reproduction(story)]))
    return [section(name + title, *inside) for title, inside in parts if inside]


def _outcome(story: Story) -> list[str]:
    result = story.result
    said = []
    for limit in result.limits:
        state = {True: "met", False: "missed", None: "predicted only"}[limit.met]
        said.append(paragraph(f"{limit.budget}: {state}", f"verdict {state.split()[0]}"))
    found = result.accuracy
    rows = render.cost_rows(asdict(result.before), asdict(result.after))
    rows.append([f"{found.metric} ({found.split})", render.percent(found.before), render.percent(found.after), ""])
    return [*said, table(["", "before", "after", "left"], rows), *(paragraph(note) for note in result.notes)]


def _iterations(story: Story) -> str:
    names = figures.driven([story])
    rows = [
        [
            step.iteration,
            step.group,
            f"{step.channels[0]} → {step.channels[1]}",
            len(step.tried),
            *(render.amount(name, step.resources[name]) if name in step.resources else "" for name in names),
            render.percent(step.accepted.accuracy),
        ]
        for step in story.steps
    ]
    return table(["iteration", "group", "channels", "proposals", *names, "held-out accuracy"], rows)


def _measured(story: Story, resource: str) -> str:
    """The final measurement, in words that a table can hold."""
    latency, other = story.result.latencies.get(resource), story.result.measured.get(resource)
    if latency is not None:
        values = (latency.before_ms, latency.after_ms, latency.predicted_ms)
        cells = [*map(render.milliseconds, values), _share(latency.ratio, latency.ci95), latency.sessions]
        return table(["before", "after", "predicted", "share (95%)", "sessions"], [cells])
    assert other is not None
    cells = [*(f"{v:.4g}" for v in (other.before, other.after, other.predicted)), _share(other.ratio, other.ci95)]
    return table(["before", "after", "predicted", "share (95%)", "measurements"], [[*cells, other.measurements]])


def _share(ratio: float, interval: tuple[float, float]) -> str:
    return f"{ratio:.3f}x ({interval[0]:.3f} to {interval[1]:.3f})"


def _epochs(story: Story) -> str:
    rows = [[e.epoch, f"{e.loss:.4f}", f"{e.lr:.3g}"] for e in story.details.training]
    return folded("every epoch", table(["epoch", "mean loss", "learning rate"], rows))


def _layers(story: Story) -> str:
    """What became of each layer."""
    timed = [name for name in story.result.latencies if any(name in x.times_ms for x in story.details.layers)]
    rows = []
    for layer in story.details.layers:
        changed = [
            _change(layer.params, render.count),
            _change(layer.macs, render.count),
            *(_change(layer.times_ms.get(name, (0.0, 0.0)), render.milliseconds) for name in timed),
        ]
        rows.append([layer.name, layer.op, layer.group if layer.group != layer.name else "", *changed])
    return table(["layer", "operator", "group", "params", "macs", *timed], rows)


def _change(values: tuple[float, float], form: Callable[[float], str]) -> str:
    before, after = values
    if not before:
        return ""
    return form(before) if before == after else f"{form(before)} → {form(after)}"


def _blocked(story: Story) -> str:
    rows = [[b.group, b.channels, b.reason] for b in story.details.blocked]
    return table(["group", "channels", "why it cannot be pruned"], rows, "words")


def _reproduction(story: Story) -> str:
    versions = story.about.get("versions", {})
    device = dict(story.about.get("device", {}))
    parts = [
        table(["argument", "value"], [[k, _plain(v)] for k, v in story.identity.items() if v not in UNSAID], "words"),
        table(["version of", ""], [[k, v] for k, v in versions.items()], "words"),
        table(["device", ""], [[k, _plain(v)] for k, v in device.items() if v not in UNSAID], "words"),
    ]
    return paragraph(story.command, "command") + "".join(parts)


def _plain(value: Any) -> str:
    if isinstance(value, list) and all(isinstance(part, str) for part in value):
        return ", ".join(value)
    return value if isinstance(value, str) else json.dumps(value, default=str)
