"""The top of a report on a run of `adapt`: the result in one line, where it is from, and the numbers as cards."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime

from netadapt_onnx.common import render
from netadapt_onnx.common.headline import Change, difference, headline, metric_name
from netadapt_onnx.reporting.adapt_run import VALIDATION, AdaptRun
from netadapt_onnx.reporting.elements import card, grid, paragraph
from netadapt_onnx.reporting.result_summary import budget_amount, budget_sentence, budget_state, result_headline
from netadapt_onnx.reporting.run_facts import machine, when
from netadapt_onnx.search.result import Stopped

NAMES = {
    "latency": "Latency",
    "size": "File size",
    "macs": "MACs (multiply-accumulates)",
    "params": "Parameters",
    "memory": "Peak activation memory",
    "energy": "Energy",
}
# What cards show besides the resources that have a budget.
ALWAYS = ("size", "macs")
# The metric of runs that a function of the user's judges, and what their card says of it.
OWN, OWN_LINE = "evaluate", ("by the function that was passed as evaluate", "")
# Why a search ended, where its verdict does not say so.
STOPPED: Mapping[Stopped, str] = {
    "max-iterations": "ended by --max-iterations",
    "max-time": "ended by --max-time",
    "accuracy-floor": "ended by --min-accuracy",
    "no-way-down": "no group of channels can be made any narrower",
    "nothing-to-do": "the original is within its budget already",
}
UNFINISHED = {
    "running": ("Running: {} so far", " This page was written at {:%H:%M:%S} UTC."),
    "interrupted": ("Interrupted after {}", " Repeat the command with --resume to go on."),
}


def adapt_header(run: AdaptRun) -> list[str]:
    """The headline, the verdicts, where and when, the command, cards, and what else to know."""
    notes = [] if run.result is None else run.result.notes
    facts = [*when(run.about), *machine(run.about), *_effort(run)]
    command = str(run.about.get("command", ""))
    return [
        *_lines(run),
        paragraph(" · ".join(facts), "soft") if facts else "",
        paragraph(command, "command") if command else "",
        grid("cards", _cards(run)),
        *(paragraph(note, "note") for note in notes),
    ]


def _lines(run: AdaptRun) -> list[str]:
    """The headline and, below it, each verdict."""
    result = run.result
    if result is not None:
        verdicts = [paragraph(budget_sentence(limit, result), f"verdict {_kind(limit.met)}") for limit in result.limits]
        return [paragraph(result_headline(result), "headline"), *verdicts]
    count = len(run.steps)
    title, advice = UNFINISHED[run.state]
    budgets = ", ".join(budget.text for budget in run.budgets)
    best = headline(_headline_changes(run), run.accuracy)
    last = f" The last iteration, before the final training: {best}." if best else ""
    last = last if run.steps else " Before the first iteration the original is measured and evaluated."
    return [
        paragraph(title.format(render.plural(count, "iteration")), "headline"),
        paragraph(f"Asked for {budgets}.{last}{advice.format(datetime.now(UTC))}"),
    ]


def _headline_changes(run: AdaptRun) -> list[Change]:
    names = [*run.budget_resources, *(name for name in ("size",) if name not in run.budget_resources)]
    return [run.changes[name] for name in names if name in run.changes]


def _kind(met: bool | None) -> str:
    return {True: "met", False: "missed", None: ""}[met]


def _effort(run: AdaptRun) -> list[str]:
    result = run.result
    if result is None:
        return []
    seconds = result.seconds
    time = f"{seconds:.0f} s" if seconds < 120 else f"{seconds / 60:.0f} min"
    count = f"{render.plural(result.iterations, 'iteration')}, {time}"
    return [count, *([STOPPED[result.stopped]] if result.stopped in STOPPED else [])]


def _cards(run: AdaptRun) -> list[str]:
    """A card for every resource with a budget, for size and macs, and for the accuracy."""
    changes = run.changes
    timed = [name for name in changes if not render.is_counted(name)]
    names = dict.fromkeys([*timed, *run.budget_resources, *ALWAYS])
    cards = [_resource_card(run, changes[name]) for name in names if name in changes]
    accuracy = run.accuracy
    if accuracy is None:
        return cards
    before, after = (render.score(accuracy.metric, value) for value in (accuracy.before, accuracy.after))
    if accuracy.metric == OWN:
        return [*cards, card("Score", after, [(f"was {before}" if before != after else "as before", ""), OWN_LINE])]
    name = VALIDATION if accuracy.split == "val" else accuracy.split
    count = (run.about.get("samples") or {}).get("val" if name == VALIDATION else name, "")
    samples = f"{accuracy.metric}, {count} {name} samples".replace("  ", " ")
    lines = [(f"was {before}" if before != after else "as before", ""), (samples, "")]
    name = metric_name(accuracy.metric)
    return [*cards, card(name[:1].upper() + name[1:], after, lines)]


def _resource_card(run: AdaptRun, change: Change) -> str:
    kind, _, device = change.resource.partition("@")
    was = "" if change.before is None else f", was {render.amount(change.resource, change.before)}"
    lines = [(f"{difference(change)}{was}" if change.before is not None else "", "")]
    if change.ci95 is not None:
        lines.append((f"{change.share:.3f}x of the original (95%: {change.ci95[0]:.3f} to {change.ci95[1]:.3f})", ""))
    elif change.is_predicted:
        lines.append(("predicted, not measured", ""))
    for limit in () if run.result is None else run.result.limits:
        if limit.resource == change.resource and run.result is not None:
            state = budget_state(run.result, [limit])
            lines.append((f"budget {budget_amount(limit.budget, limit.limit)}: {state}", _kind(limit.met)))
    title = NAMES.get(kind, kind) + (f" on {device}" if device else "")
    return card(title, render.amount(change.resource, change.after), [line for line in lines if line[0]])
