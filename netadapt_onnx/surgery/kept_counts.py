"""How many channels each group keeps: by a ratio, by name, or uniformly down to a budget."""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from netadapt_onnx.common.amounts import parse_amount
from netadapt_onnx.common.budget import Budget
from netadapt_onnx.errors import NetadaptError
from netadapt_onnx.graph.cost import Cost, CostModel
from netadapt_onnx.surgery.criteria.ranking import Block, counts_after
from netadapt_onnx.surgery.groups import Group, resize_io_of
from netadapt_onnx.surgery.obstacles import resize_options
from netadapt_onnx.surgery.states import with_states
from netadapt_onnx.surgery.trace import Trace

# By group.
Counts = dict[str, int]


def at_ratio(groups: Iterable[Group], ratio: float, step: int | None = None) -> Counts:
    """Counts when `ratio` of every group goes: max(floor, step * ceil((1 - ratio) * channels / step))."""
    share = 1 - checked_ratio(ratio)
    return {g.name: rounded(g, share * g.channels, step) for g in groups}


def checked_ratio(ratio: float) -> float:
    """The ratio itself. Raises NetadaptError unless it is a share of channels that can go."""
    if not 0 <= ratio < 1:
        raise NetadaptError(f"ratio {ratio:g} is not in [0, 1): it is the share of channels to remove", code="usage")
    return ratio


def at_counts(trace: Trace, keep: Mapping[str, int | float | str]) -> Counts:
    """Counts as `keep` names them; a share ("0.5x", "50%", a float below 1) is rounded up to the group's step.

    Raises NetadaptError for a group that cannot be pruned, and for what is no count of it.
    """
    counts: Counts = {}
    for name, value in keep.items():
        group = trace.group(name)
        if not group.prunable:
            states = resize_io_of(with_states(trace).group(group.name))
            hint = f"let the states change their shapes with it: {resize_options(states)}" if states else ""
            raise NetadaptError(f"group '{name}' cannot be pruned: {group.reason}", hint=hint, code="not-prunable")
        if group.name in counts:  # by its name and by its path
            raise NetadaptError(f"group '{group.name}' is named twice", hint="name it once", code="usage")
        counts[group.name] = _count(group, value)
    return counts


def _count(group: Group, value: int | float | str) -> int:
    text = str(value)
    amount = parse_amount("channels", text)
    wrong = NetadaptError(
        f"--keep {group.name}={text}: not a count of {group.channels} channels",
        hint=f"from {group.floor} to {group.channels} in steps of {group.step}, or a share such as 0.5x or 50%",
        code="usage",
    )
    if amount is None:
        raise wrong
    number, is_share = amount
    if is_share or (isinstance(value, float) and value < 1):
        if not 0 < number <= 1:
            raise wrong
        return rounded(group, number * group.channels)
    if number % group.step or not group.floor <= number <= group.channels:
        raise wrong
    return int(number)


def rounded(group: Group, channels: float, step: int | None = None) -> int:
    """So many channels rounded up to what a group can keep: a multiple of `step` and of its structural step."""
    multiple = math.lcm(step or 1, group.step)
    return min(group.channels, max(group.floor, multiple * math.ceil(channels / multiple - 1e-9)))


@dataclass(frozen=True)
class CutSequence:
    """Cuts from none to the most, each removing more than the one before: `counts(i)` for i below `length`."""

    length: int
    counts: Callable[[int], Counts]


def uniform_cuts(groups: Sequence[Group], step: int | None) -> CutSequence:
    """Cuts in which every group keeps the same share."""
    shares = sorted({n / g.channels for g in groups for n in range(g.channels + 1)}, reverse=True)
    return CutSequence(len(shares), lambda i: {g.name: rounded(g, shares[i] * g.channels, step) for g in groups})


def ranked_cuts(trace: Trace, order: Sequence[Block]) -> CutSequence:
    """Cuts that remove one block of channels after the other, the least important first."""
    return CutSequence(len(order) + 1, lambda i: counts_after(trace, order[:i]))


@dataclass(frozen=True)
class BudgetedCounts:
    """The counts of the first cut that meets every budget, whether there is one (`met`), and what to say about it."""

    counts: Counts
    met: bool = True
    note: str = ""


def within_budget(
    trace: Trace,
    cuts: CutSequence,
    cost_model: CostModel,
    original: Mapping[str, int],
    budgets: tuple[Budget, ...],
    extra_bytes: int,
) -> BudgetedCounts:
    """Cut until every budget holds.

    Args:
        trace: The model.
        cuts: The cuts to choose from.
        cost_model: Counts the resources of the model at any widths.
        original: The resources that relative budgets are shares of, in base units.
        budgets: Limits on counted resources.
        extra_bytes: What a file holds besides the graph.
    """

    def cost_at(counts: Counts) -> dict[str, int]:
        cost = resized_cost(trace, cost_model, counts).resources
        return cost | {"size": cost["size"] + extra_bytes}

    def holds(counts: Counts) -> bool:
        cost = cost_at(counts)
        return all(cost[b.resource] <= b.limit(original[b.resource]) for b in budgets)

    text = ", ".join(map(str, budgets))
    if holds(cuts.counts(0)):
        return BudgetedCounts(cuts.counts(0), note=f"nothing to do: the model meets {text} already")
    last = cuts.length - 1
    smallest = cuts.counts(last)
    if not holds(smallest):
        cost = cost_at(smallest)
        reached = ", ".join(f"{b.resource}={cost[b.resource] / original[b.resource]:.3f}x" for b in budgets)
        return BudgetedCounts(smallest, False, f"the smallest model misses {text}: it reaches {reached}")
    first = bisect_left(range(last), True, lo=1, key=lambda i: holds(cuts.counts(i)))
    return BudgetedCounts(cuts.counts(first))


def resized_cost(trace: Trace, cost_model: CostModel, counts: Counts) -> Cost:
    """What the model costs with so many channels in its groups; which of them go does not matter."""
    return cost_model(trace.resized_shapes({name: np.arange(n) for name, n in counts.items()}))
