"""The knapsack strategy: all groups at once, in a few rounds, without proposals to adapt and judge.

Each round asks an integer program which channel count every group gets: most importance kept, predicted resources
within the round's targets. Costs depend on widths in and out, so they are linearised around a point, solved, and
linearised anew around the solution. After HALP (Shen et al., NeurIPS 2022): latency-aware pruning as a knapsack over
groups of channels that share a latency step, with first-order Taylor importance; re-scored between rounds.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from netadapt_onnx.common.progress import stage
from netadapt_onnx.search import netadapt
from netadapt_onnx.search.channel_choices import ChannelChoices
from netadapt_onnx.search.netadapt import TOGETHER, Problem, Step, amounts_after, corrected, met, widths_after
from netadapt_onnx.search.proposal import Amounts, Proposal, Widths
from netadapt_onnx.surgery.criteria.scores import Criterion
from netadapt_onnx.surgery.criteria.selection import class_totals, importance
from netadapt_onnx.surgery.trace import Trace

# The way to the budget in equal shares of what is left; importances are scored anew after each.
ROUNDS = 5
LINEARISATIONS = 12
# Counts of one group that a round chooses among: wide groups skip some rungs, which the next round has again.
MOST_OPTIONS = 16

# Importance of every channel of each group that can still be cut, least first, for the current model.
Importances = Callable[[], Mapping[str, np.ndarray]]
Predict = Callable[[Widths], Amounts]


@dataclass(frozen=True)
class Option:
    """A count that a group may get, and the importance that it gives up for it."""

    group: str
    channels: int
    lost: float


def search(problem: Problem, importances: Importances, history: Sequence[Step] = ()) -> Iterator[Step]:
    """Run the rounds from the end of `history`; NetAdapt's loop does what remains to land on the budget.

    That is to give channels back, or to cut on where a measurement found the model too slow.
    """
    steps = list(history)
    while len(steps) < problem.max_iterations and not met(amounts_after(problem, steps), problem.limits):
        done = sum(step.group == TOGETHER for step in steps[problem.since :])
        step = _round(problem, importances, steps, ROUNDS - done) if done < ROUNDS else None
        if step is None:
            break
        steps.append(step)
        yield step
    yield from netadapt.search(problem, steps)


def _round(problem: Problem, importances: Importances, steps: Sequence[Step], left: int) -> Step | None:
    widths, current = widths_after(problem, steps), amounts_after(problem, steps)
    before = steps[-1].accepted if steps else problem.start
    predict = corrected(problem, before.correction)
    ceilings = ceilings_of(current, problem.limits, left)
    driver = max(problem.limits, key=lambda name: current[name] / problem.limits[name])
    chosen = solve(problem.ladders, widths, importances(), predict, ceilings)
    if chosen == widths:
        return None
    iteration, resources = len(steps) + 1, predict(chosen)
    counts = sum(widths.values()), sum(chosen.values())
    accepted = problem.accept(iteration, Proposal(TOGETHER, counts[1], chosen, resources))
    same = tuple(name for name in widths if widths[name] == chosen[name])
    return Step(
        iteration, TOGETHER, counts, chosen, driver, ceilings[driver], resources, accepted, (), same
    )  # fmt: skip


def ceilings_of(current: Amounts, limits: Amounts, left: int = ROUNDS) -> dict[str, float]:
    """What a round may leave of each resource, `left` rounds from the last."""
    ceilings = {name: _toward(current[name], limit, left) for name, limit in limits.items()}
    if "latency" in current:  # some cuts make models slower
        ceilings.setdefault("latency", current["latency"])
    return ceilings


def ascending(trace: Trace, by: str | Criterion) -> dict[str, np.ndarray]:
    """Importance of every channel of the groups of a model, least first; channels tied together share it."""
    found = {}
    for name, scores in importance(trace, by).items():
        group = trace.group(name)
        found[name] = np.sort(class_totals(trace, group, scores)).repeat(group.step) / group.step
    return found


def _toward(current: float, limit: float, left: int) -> float:
    """What is allowed after this round, `left` rounds from the last: equal shares, so that each cuts as deep."""
    return float(current * (limit / current) ** (1 / left)) if current > limit else limit


@stage("choosing widths")
def solve(
    ladders: Sequence[ChannelChoices],
    widths: Widths,
    scores: Mapping[str, np.ndarray],
    predict: Predict,
    ceilings: Amounts,
) -> dict[str, int]:
    """Channel counts, none above `widths`, that keep most importance while no resource exceeds its ceiling.

    Where no counts do, those that come nearest.
    """
    groups = [options for r in ladders if len(options := _options(r, widths[r.group], scores.get(r.group))) > 1]
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
    found = best if best is not None else _lowered(groups, point, predict, ceilings)
    return _raised(groups, found, predict, ceilings) if met(predict(found), ceilings) else found


def _options(rungs: ChannelChoices, channels: int, scores: np.ndarray | None) -> list[Option]:
    """From the present count down; none but the present one for a group without importances."""
    below = [n for n in rungs.coarse if n < channels] or [n for n in rungs.fine if n < channels]
    if scores is None or not below:
        return []
    if len(below) >= MOST_OPTIONS:
        below = [below[i] for i in np.unique(np.linspace(0, len(below) - 1, MOST_OPTIONS - 1).round().astype(int))]
    total = np.concatenate([[0.0], np.cumsum(scores)])
    return [Option(rungs.group, n, float(total[channels - n])) for n in (channels, *below)]


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
    found = milp(
        lost / (np.abs(lost).max() or 1.0),
        integrality=np.ones(len(flat)),
        bounds=Bounds(0, 1),
        constraints=[
            LinearConstraint(block_diag([np.ones((1, len(options))) for options in groups]).tocsr(), 1, 1),
            LinearConstraint(np.array(rows), -np.inf, room),
        ],
    )
    if found.x is None:
        return {options[-1].group: options[-1].channels for options in groups}
    return {o.group: o.channels for o, taken in zip(flat, found.x, strict=True) if taken > 0.5}


def _lowered(groups: Sequence[Sequence[Option]], start: Widths, predict: Predict, ceilings: Amounts) -> dict[str, int]:
    """Rung by rung down, least importance per resource saved first, until every ceiling holds or nothing helps."""
    counts, amounts = dict(start), predict(start)

    def excess(found: Amounts) -> float:
        return sum(max(0.0, found[name] / ceiling - 1) for name, ceiling in ceilings.items())

    while excess(amounts) > 0:
        moves = []
        for options in groups:
            place = [o.channels for o in options].index(counts[options[0].group])
            for then in options[place + 1 :]:
                after = predict({**counts, then.group: then.channels})
                if excess(after) < excess(amounts):
                    price = (then.lost - options[place].lost) / (excess(amounts) - excess(after))
                    moves.append((price, then, after))
                    break
        if not moves:
            break
        _, option, amounts = min(moves, key=lambda move: move[0])
        counts[option.group] = option.channels
    return counts


def _raised(groups: Sequence[Sequence[Option]], start: Widths, predict: Predict, ceilings: Amounts) -> dict[str, int]:
    """Rung by rung up, most importance regained first, as long as every ceiling holds."""
    counts = dict(start)
    while True:
        moves = []
        for options in groups:
            place = [o.channels for o in options].index(counts[options[0].group])
            if place:
                up = options[place - 1]
                if met(predict({**counts, up.group: up.channels}), ceilings):
                    moves.append((options[place].lost - up.lost, up))
        if not moves:
            return counts
        _, option = max(moves, key=lambda move: move[0])
        counts[option.group] = option.channels
