"""Which widths lose least within a budget: an integer program over the channel counts of all groups at once.

Costs depend on widths in and out, so they are linearised around a point, solved, and linearised anew around the
solution. After HALP (Shen et al., NeurIPS 2022), which states latency-aware pruning as a knapsack.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from netadapt_onnx.common.native_output import native_stdout_discarded
from netadapt_onnx.common.progress import stage
from netadapt_onnx.search.allowed_counts import ChannelChoices
from netadapt_onnx.search.netadapt import met
from netadapt_onnx.search.proposals import Amounts, Widths

LINEARISATIONS = 12
# Counts of one group that a program chooses among: wide groups skip some.
MOST_OPTIONS = 16

Predict = Callable[[Widths], Amounts]
# By group, what is lost when 0, 1, 2 ... of its channels are gone, (channels + 1,), rising.
Losses = Mapping[str, np.ndarray]


@dataclass(frozen=True)
class Option:
    """A channel count that a group may get, and what it loses by it."""

    group: str
    channels: int
    lost: float


@stage("choosing widths")
def solve(
    choices: Sequence[ChannelChoices],
    widths: Widths,
    losses: Losses,
    predict: Predict,
    ceilings: Amounts,
    most_options: int = MOST_OPTIONS,
) -> dict[str, int]:
    """Channel counts, none above `widths`, that lose least while no resource exceeds its ceiling.

    Args:
        choices: The channel counts that each group may have.
        widths: The channel counts that are cut from.
        losses: What each group loses with its channels, from `widths` on; groups that are left out are not cut.
        predict: Predicts the resources at given widths.
        ceilings: The most of each resource that is allowed, in base units.
        most_options: How many counts of a group to choose among.

    Returns:
        The channel count of every group; where no counts keep to the ceilings, those that come nearest.
    """
    lists = (_options(choice, widths[choice.group], losses.get(choice.group), most_options) for choice in choices)
    groups = [options for options in lists if len(options) > 1]
    if not groups:
        return dict(widths)
    lost = {(o.group, o.channels): o.lost for options in groups for o in options}
    point, seen = dict(widths), set()
    best: dict[str, int] | None = None

    def given_up(counts: Widths) -> float:
        return sum(lost.get(item, 0.0) for item in counts.items())

    for _ in range(LINEARISATIONS):
        chosen = dict(widths) | _chosen(groups, point, predict, ceilings)
        if met(predict(chosen), ceilings) and (best is None or given_up(chosen) < given_up(best)):
            best = chosen
        if tuple(chosen.values()) in seen:
            break
        seen.add(tuple(chosen.values()))
        point = chosen
    counts = best if best is not None else _lowered(groups, point, predict, ceilings)
    if not met(predict(counts), ceilings):
        return counts
    every = [_options(c, widths[c.group], losses.get(c.group), len(c.fine) + 1) for c in choices]
    return _raised([options for options in every if len(options) > 1], counts, predict, ceilings)


def _options(choice: ChannelChoices, channels: int, lost: np.ndarray | None, most: int) -> list[Option]:
    """From the present count down; none but the present one for a group without losses."""
    below = [n for n in choice.coarse if n < channels] or [n for n in choice.fine if n < channels]
    if lost is None or not below:
        return []
    if len(below) >= most:
        below = [below[i] for i in np.unique(np.linspace(0, len(below) - 1, most - 1).round().astype(int))]
    return [Option(choice.group, n, float(lost[channels - n])) for n in (channels, *below)]


def _chosen(groups: Sequence[Sequence[Option]], point: Widths, predict: Predict, ceilings: Amounts) -> dict[str, int]:
    """The best option of every group if each costs what it costs alone at `point`; the least ones if none fit."""
    from scipy.optimize import Bounds, LinearConstraint, milp
    from scipy.sparse import block_diag

    base = predict(point)
    flat = [option for options in groups for option in options]
    costs = [predict({**point, option.group: option.channels}) for option in flat]
    rows = [[(cost[name] - base[name]) / ceiling for cost in costs] for name, ceiling in ceilings.items()]
    room = [(ceiling - base[name]) / ceiling for name, ceiling in ceilings.items()]
    lost = np.array([option.lost for option in flat])
    with native_stdout_discarded():  # HiGHS prints a line of its debugging in one program of some 30
        solution = milp(
            lost / (np.abs(lost).max() or 1.0),
            integrality=np.ones(len(flat)),
            bounds=Bounds(0, 1),
            constraints=[
                LinearConstraint(block_diag([np.ones((1, len(options))) for options in groups]).tocsr(), 1, 1),
                LinearConstraint(np.array(rows), -np.inf, room),
            ],
        )
    if solution.x is None:
        return {options[-1].group: options[-1].channels for options in groups}
    return {o.group: o.channels for o, chosen in zip(flat, solution.x, strict=True) if chosen > 0.5}


def _lowered(groups: Sequence[Sequence[Option]], start: Widths, predict: Predict, ceilings: Amounts) -> dict[str, int]:
    """Count by count down, least lost per resource saved first, until every ceiling holds or nothing helps."""
    counts, amounts = dict(start), predict(start)

    def excess(used: Amounts) -> float:
        return sum(max(0.0, used[name] / ceiling - 1) for name, ceiling in ceilings.items())

    while excess(amounts) > 0:
        moves = []
        for options in groups:
            now = [o.channels for o in options].index(counts[options[0].group])
            for lower in options[now + 1 :]:
                after = predict({**counts, lower.group: lower.channels})
                if excess(after) < excess(amounts):
                    price = (lower.lost - options[now].lost) / (excess(amounts) - excess(after))
                    moves.append((price, lower, after))
                    break
        if not moves:
            break
        _, option, amounts = min(moves, key=lambda move: move[0])
        counts[option.group] = option.channels
    return counts


def _raised(groups: Sequence[Sequence[Option]], start: Widths, predict: Predict, ceilings: Amounts) -> dict[str, int]:
    """Count by count up, most regained first, as long as every ceiling holds."""
    counts = dict(start)
    while True:
        moves = []
        for options in groups:
            now = [o.channels for o in options].index(counts[options[0].group])
            if now:
                up = options[now - 1]
                if met(predict({**counts, up.group: up.channels}), ceilings):
                    moves.append((options[now].lost - up.lost, up))
        if not moves:
            return counts
        _, option = max(moves, key=lambda move: move[0])
        counts[option.group] = option.channels
