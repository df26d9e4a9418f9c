"""The sections of a report that explain a run of `adapt`."""

from __future__ import annotations

from netadapt_onnx.common import render
from netadapt_onnx.reporting import adapt_charts, adapt_tables
from netadapt_onnx.reporting.adapt_header import adapt_header
from netadapt_onnx.reporting.adapt_run import AdaptRun
from netadapt_onnx.reporting.elements import Html, collapsible, grid, paragraph, section, table
from netadapt_onnx.reporting.page import Draw
from netadapt_onnx.reporting.reproduction import reproduction
from netadapt_onnx.reporting.table_rows import accuracy_row, result_rows
from netadapt_onnx.search.result import AdaptResult, Latency

ACCURACY = (
    "Every point is a model that this run evaluated on validation samples. A proposal is a model that was tried; "
    "its {resource} is predicted. The best proposal of an iteration is accepted, and the next one starts from it. "
    "Proposals and accepted models are drawn as they were before the final training, the result as it is after it."
)
ITERATIONS = (
    "Each iteration makes the network cheaper by a step: it tries several ways (the proposals) and accepts the one "
    "that loses least accuracy for what it saves. A group is a set of layers whose channels have to be removed "
    "together, named after the first of them. Accuracies are on validation samples, before the final training."
)
WITHOUT_LABELS = (
    "Without labels, proposals are judged by the share of the variance of the original's outputs that they explain. "
    "That is another measure than agreement, so they are not drawn."
)
EXPLAINED = (
    " Without labels, they are compared by the share of the variance of the original's outputs that they explain."
)
COMPETITORS = (
    "Several methods chose the widths of all groups at once, and the best of their models was accepted. netadapt: the "
    "widths that the iterations had come to; uniform: every group narrowed by the same share; curves: what costs least "
    "by the error that each group causes as it gets narrower (curves^2: by that error squared; draw: with chance "
    "changes to the curves). Weights solved: the accuracy after the remaining weights were fitted by least squares."
)
CHANNELS = (
    "A group is a set of layers whose output channels have to be removed together, because their outputs are added "
    "or otherwise tied; it is named after the first of these layers."
)
MEASURED = (
    "The result and the original were measured in turn, in fresh sessions of onnxruntime, so that both met the same "
    "conditions. The budget is met if the upper end of the 95% interval is within it."
)
BLOCKED = "These layers keep all of their channels."
TRAINING = (
    "After the search the model is trained with the original as its teacher. The best state on validation samples is "
    "kept."
)
DISCARDED = (
    "Fine-tuning did not improve the accuracy on validation samples, so it was discarded: the result has the "
    "weights that the search left."
)


def adapt_sections(run: AdaptRun, draw: Draw, *, with_name: bool) -> list[str]:
    """Sections as HTML, from the run's headline to how it can be repeated.

    Args:
        run: A run of `adapt`; one that has not ended has fewer sections.
        draw: Renders a chart as HTML.
        with_name: Whether headings begin with the run's name, because the page holds several runs.
    """
    result, prefix = run.result, f"{run.name}: " if with_name else ""
    header = adapt_header(run)
    competitions = adapt_tables.competitions(run)
    competitors = COMPETITORS + (EXPLAINED if run.ranks_by_outputs else "")
    parts: list[tuple[str, list[str]]] = [
        *_accuracy_charts(run, draw),
        ("One model for each target", _targets(result)),
        ("Iterations", [paragraph(ITERATIONS, "soft"), adapt_tables.iterations(run)] if run.steps else []),
        ("Methods that competed", [] if competitions is None else [paragraph(competitors, "soft"), competitions]),
        ("Channels", _after(CHANNELS, adapt_tables.channels(run))),
        *_measurements(run, draw),
        ("Final training", _training(run, draw)),
        ("All costs, before and after", [] if result is None else [_costs(result)]),
        ("Layers", [adapt_tables.layers(run)] if run.details.layers else []),
        ("Layers that cannot be pruned", _after(BLOCKED, [adapt_tables.blocked(run)] if run.details.blocked else [])),
        ("How to repeat this run", [reproduction(run.identity, run.about)]),
    ]
    sections = [section(prefix + title, *content) for title, content in parts if content]
    return [section(run.name, *header) if with_name else Html("".join(header)), *sections]


def _after(text: str, content: list[str]) -> list[str]:
    """Content below the explanation of its terms; none without content."""
    return [paragraph(text, "soft"), *content] if content else []


def _accuracy_charts(run: AdaptRun, draw: Draw) -> list[tuple[str, list[str]]]:
    """A large chart for each resource with a budget: one for wide screens and one for phones, of which one is shown."""
    shown = []
    for name in run.budget_resources:
        if not adapt_charts.varies(run, name):
            continue
        label = f"accuracy against {name} of every model that was evaluated"
        broad, narrow = (
            adapt_charts.accuracy_against(run, name, size) for size in (adapt_charts.BROAD, adapt_charts.NARROW)
        )
        text = ACCURACY.format(resource=name if not render.is_counted(name) else "cost")
        if run.ranks_by_outputs:
            text = f"{text} {WITHOUT_LABELS}"
        if run.accuracy is not None and run.accuracy.split == "test":
            text += " The accuracy in the headline is on test samples, which no search has seen."
        content = [draw(broad, "broad", label), draw(narrow, "narrow", label), paragraph(text, "soft")]
        shown.append((f"Accuracy against {name}", content))
    return shown


def _targets(result: AdaptResult | None) -> list[str]:
    return [] if result is None or len(result.models) < 2 else [adapt_tables.targets(result)]


def _measurements(run: AdaptRun, draw: Draw) -> list[tuple[str, list[str]]]:
    """For each measured resource: the final measurement, its sessions, and predictions against measurements."""
    result = run.result
    shown = []
    for name in run.budget_resources if result is None else (*result.latencies, *result.measured):
        charts = (adapt_charts.distributions(run, name), adapt_charts.predicted_against_measured(run, name))
        drawn = [draw(chart) for chart in charts if chart is not None]
        final = [] if result is None else [paragraph(MEASURED, "soft"), _measured(result, name)]
        if final or drawn:
            shown.append((f"{name[:1].upper()}{name[1:]}: predicted and measured", [*final, grid("charts", drawn)]))
    return shown


def _measured(result: AdaptResult, resource: str) -> str:
    """A table of the final measurement of a resource."""
    comparison = result.latencies.get(resource) or result.measured[resource]
    if isinstance(comparison, Latency):
        values = (comparison.before_ms, comparison.after_ms, comparison.predicted_ms)
        cells, counted, count = [*map(render.milliseconds, values)], "sessions", comparison.sessions
    else:
        cells = [render.amount(resource, v) for v in (comparison.before, comparison.after, comparison.predicted)]
        counted, count = "measurements", comparison.measurements
    low, high = comparison.ci95
    share = f"{comparison.ratio:.3f}x ({low:.3f} to {high:.3f})"
    headers = ["original", "result", "predicted for the result", "result / original (95%)", counted]
    return table(headers, [[*cells, share, count]], text=())


def _training(run: AdaptRun, draw: Draw) -> list[str]:
    """The course of the final training; of one that was discarded only that it was, and the numbers folded."""
    rows = [[e.epoch, f"{e.loss:.4f}", f"{e.lr:.3g}"] for e in run.details.training]
    charts = [chart for chart in (adapt_charts.training_accuracy(run), adapt_charts.training_loss(run)) if chart]
    if not rows and not charts:
        return []
    epochs = [collapsible("Every epoch", table(["epoch", "mean loss", "learning rate"], rows, text=()))] if rows else []
    if run.was_training_discarded:
        score = [[one.step, f"{one.accuracy:.4f}"] for one in run.evaluations]
        course = collapsible(
            "What was discarded", table(["step", adapt_charts.ranking_title(run)], score, text=()), *epochs
        )
        return [paragraph(DISCARDED), course]
    return [paragraph(TRAINING, "soft"), grid("charts", [draw(chart) for chart in charts]), *epochs]


def _costs(result: AdaptResult) -> Html:
    """What the model costs and how accurate it is, also as it is deployed."""
    rows = result_rows(result)
    if result.deployed is not None:
        sizes = result.deployed.size_bytes
        rows.append(accuracy_row(result.deployed.accuracy, f" as {result.deployed.precision}"))
        share = render.ratio(sizes[1], sizes[0])
        rows.append([f"file size as {result.deployed.precision}", *map(render.size, sizes), share])
    return table(["", "before", "after", "left"], rows)
