"""The sections that tell of a run of `adapt`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict

from netadapt_onnx.common import render
from netadapt_onnx.reporting import figures
from netadapt_onnx.reporting.page import Draw, folded, paragraph, section, table
from netadapt_onnx.reporting.reproduction import reproduction
from netadapt_onnx.reporting.story import Story
from netadapt_onnx.search.netadapt import Step
from netadapt_onnx.search.result import AccuracyChange, Stopped

STATES = {True: "met", False: "missed", None: "predicted only"}


def told(story: Story, draw: Draw, *, headed: bool) -> list[str]:
    """A run from its verdict to how it can be repeated; `headed` by its name where there are several."""
    result, name = story.result, f"{story.name}: " if headed else ""
    names = story.driven
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
    gone = [paragraph(f"Without the residual branches {', '.join(result.removed)}.")] if result.removed else []
    widths = table(["group", "before", "after", "left"], rows)
    parts.append(("channels", [draw(figures.channels(story)), *gone, widths]))
    for n in [*result.latencies, *result.measured]:
        drawn = [figures.distributions(story, n), figures.predicted_against_measured(story, n), figures.spent(story, n)]
        parts.append(
            (f"{n}: predicted and measured", [_measured(story, n), *(draw(d) for d in drawn if d is not None)])
        )
    curve = figures.training(story)
    parts.append(("final training", [] if curve is None else [draw(curve), _epochs(story)]))
    parts.append(("layers", [_layers(story)] if story.details.layers else []))
    parts.append(("what stays, and why", [_blocked(story)] if story.details.blocked else []))
    parts.append(("how to repeat it", [reproduction(story.identity, story.about)]))
    return [section(name + title, *inside) for title, inside in parts if inside]


def _outcome(story: Story) -> list[str]:
    result = story.result
    said = []
    for limit in result.limits:
        state = _state(limit.met, result.stopped)
        said.append(paragraph(f"{limit.budget}: {state}", f"verdict {state.split()[0]}"))
    found = result.accuracy
    rows = render.cost_rows(asdict(result.before), asdict(result.after))
    rows += render.normalised_rows(result.before.latency_ms, result.normalised)
    rows.append(_accuracy(found, ""))
    if result.deployed is not None:
        sizes = result.deployed.size_bytes
        rows.append(_accuracy(result.deployed.accuracy, f" as {result.deployed.precision}"))
        left = render.ratio(sizes[1], sizes[0])
        rows.append([f"file size as {result.deployed.precision}", *map(render.size, sizes), left])
    targets = [_targets(story)] if len(result.models) > 1 else []
    notes = [paragraph(note) for note in result.notes]
    return [*said, table(["", "before", "after", "left"], rows), *targets, *notes]


def _state(met: bool | None, stopped: Stopped) -> str:
    return "could not be judged" if met is None and stopped == "could-not-judge" else STATES[met]


def _accuracy(found: AccuracyChange, form: str) -> list[str]:
    scores = [render.score(found.metric, value) for value in (found.before, found.after)]
    return [f"{found.metric} ({found.split}){form}", *scores, ""]


def _targets(story: Story) -> str:
    """A row for each target of one run."""
    rows = [
        [
            made.budget,
            _state(made.met, made.stopped),
            render.count(made.after.macs),
            render.count(made.after.params),
            render.milliseconds(made.after.latency_ms),
            render.score(made.accuracy.metric, made.accuracy.after),
            made.iterations,
        ]
        for made in story.result.models
    ]
    return table(["target", "", "macs", "params", "latency", story.metric, "iterations"], rows)


def _iterations(story: Story) -> str:
    names = story.driven
    rows = [
        [
            step.iteration,
            step.group,
            f"{step.channels[0]} → {step.channels[1]}",
            len(step.tried),
            *(cell for name in names for cell in _amounts(step, name)),
            render.score(story.metric, step.accepted.accuracy),
        ]
        for step in story.steps
    ]
    columns = [
        column
        for name in names
        for column in ([name] if render.is_counted(name) else [f"{name}, predicted", f"{name}, measured (95%)"])
    ]
    return table(["iteration", "group", "channels", "proposals", *columns, "held-out accuracy"], rows, "numbers named")


def _amounts(step: Step, name: str) -> list[str]:
    """What a model was predicted to cost, and what was measured of it where that takes measuring."""
    predicted = render.amount(name.partition("@")[0], step.resources[name]) if name in step.resources else ""
    if render.is_counted(name):
        return [predicted]
    return [predicted, render.measured(name, step.accepted.measured, step.accepted.measured_ci95)]


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
            *(_change(layer.times_ms.get(name, (0.0, 0.0)), "{:.3g}".format) for name in timed),
        ]
        rows.append([layer.name, layer.op, layer.group if layer.group != layer.name else "", *changed])
    return table(["layer", "operator", "group", "params", "macs", *map(figures.titled, timed)], rows)


def _change(values: tuple[float, float], form: Callable[[float], str]) -> str:
    before, after = values
    if not before:
        return ""
    return form(before) if before == after else f"{form(before)} → {form(after)}"


def _blocked(story: Story) -> str:
    rows = [[b.group, b.channels, b.reason] for b in story.details.blocked]
    return table(["group", "channels", "why it cannot be pruned"], rows, "words")
