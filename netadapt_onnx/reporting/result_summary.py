"""A result of `adapt` in sentences, for the page and the terminal: its headline, and how each budget ended."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from netadapt_onnx.common import render
from netadapt_onnx.common.headline import Change, headline
from netadapt_onnx.common.resources import amounts

if TYPE_CHECKING:
    from netadapt_onnx.data.metrics import AccuracyChange
    from netadapt_onnx.search.result import Limit, SearchResult

STATES = {True: "met", False: "missed"}
UNJUDGED = "could not be judged"


def result_headline(result: SearchResult) -> str:
    """What came out of a run, in one line: `1.8x faster (0.45 ms, was 0.78), 61% smaller, accuracy 99.0% as before`.

    Of a model that is deployed as int8, speed, size and accuracy are those of what is deployed.
    """
    budgets = [limit.resource for limit in result.limits]
    exact = counted_changes(result)
    timed = [*measured_changes(result), *predicted_changes(result)]
    # Size is always of interest, macs where nothing was timed, and all that has a budget.
    shown = [name for name in exact if name == "size" or name in budgets or (name == "macs" and not timed)]
    return headline([*timed, *(exact[name] for name in shown)], reported_accuracy(result))


def reported_accuracy(result: SearchResult) -> AccuracyChange:
    """The accuracy of what is deployed."""
    return result.accuracy if result.deployed is None else result.deployed.accuracy


def counted_changes(result: SearchResult) -> dict[str, Change]:
    """Macs, params, size and memory before and after, by resource; the size is that of what is deployed."""
    before, after = amounts(result.before), amounts(result.after)
    if result.deployed is not None:
        before["size"], after["size"] = result.deployed.size_bytes
    return {name: Change(name, before[name], after[name]) for name in before}


def measured_changes(result: SearchResult) -> Iterator[Change]:
    """What was measured of the result and the original, side by side: latencies, energy, the user's own resource."""
    for name, latency in result.latencies.items():
        yield Change(name, latency.before_ms, latency.after_ms, latency.ratio, latency.ci95)
    for name, other in result.measured.items():
        yield Change(name, other.before, other.after, other.ratio, other.ci95)


def predicted_changes(result: SearchResult) -> Iterator[Change]:
    """Resources with a budget that no device could be asked for."""
    for limit in result.limits:
        name, amount = limit.resource, limit.budget.partition("=")[2]
        if not _is_predicted(result, name):
            continue
        before = limit.limit / float(amount[:-1]) if amount.endswith("x") else None
        yield Change(name, before, limit.value, is_predicted=True)


def budget_sentence(limit: Limit, result: SearchResult) -> str:
    """Whether a budget was met, and by how much.

    For instance `latency=0.6x met: up to 0.396 ms (95% interval), 0.401 ms allowed`.
    """
    name = limit.resource
    state = budget_state(result, [limit])
    value, allowed = (render.amount(name, amount) for amount in (limit.value, limit.limit))
    if _is_predicted(result, name):
        value = f"{value} predicted"
    elif not render.is_counted(name):
        value = f"up to {value} (95% interval)"
    return f"{limit.budget} {state}: {value}, {allowed} allowed"


def budget_amount(budget: str, limit: float) -> str:
    """What a budget allows, with the unit: `0.6x = 0.401 ms`, or `12 ms` where it was given so."""
    name, _, value = budget.partition("=")
    allowed = render.amount(name, limit)
    return f"{value} = {allowed}" if value.endswith("x") else allowed


def budget_state(result: SearchResult, limits: Sequence[Limit] = ()) -> str:
    """Whether all budgets of a result were met, or some `limits` of it, in words."""
    shown = limits or result.limits
    verdicts = [limit.met for limit in limits] or [result.met]
    if None in verdicts and False not in verdicts:
        return UNJUDGED if result.stopped == "could-not-judge" else "predicted to be met"
    missed = [limit for limit in shown if limit.met is False]
    if missed and all(_is_predicted(result, limit.resource) for limit in missed):
        return "predicted to be missed"
    return STATES[False not in verdicts]


def _is_predicted(result: SearchResult, resource: str) -> bool:
    """Whether nobody has measured a resource, which is not counted either."""
    return not (render.is_counted(resource) or resource in result.latencies or resource in result.measured)
