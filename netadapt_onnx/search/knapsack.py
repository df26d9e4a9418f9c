"""The knapsack strategy as pure functions: all groups at once, in a few rounds, without proposals to evaluate.

Each round asks an integer program which channel count every group gets: most importance kept, predicted resources
within the round's targets. Costs depend on widths in and out, so they are linearised around a point, solved, and
linearised anew around the solution. After HALP (Shen et al., NeurIPS 2022): latency-aware pruning as a knapsack over
groups of channels that share a latency step, with first-order Taylor importance; re-scored between rounds.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from netadapt_onnx.common.progress import stage
from netadapt_onnx.search.channel_choices import ChannelChoices
from netadapt_onnx.search.netadapt import (
    TOGETHER,
    Accepted,
    Problem,
    Step,
    amounts_after,
    corrected,
    furthest,
    met,
    widths_after,
)
from netadapt_onnx.search.proposals import Amounts, Proposal, Widths
from netadapt_onnx.surgery.criteria.scores import Criterion
from netadapt_onnx.surgery.criteria.selection import class_totals, importance
from netadapt_onnx.surgery.residual_branches import Branch
from netadapt_onnx.surgery.trace import Trace

# The way to the budget in equal shares of what is left; importances are scored anew after each.
ROUNDS = 5
LINEARISATIONS = 12
# Counts of one group that a round chooses among: wide groups skip some, which the next round has again.
MOST_OPTIONS = 16

Predict = Callable[[Widths], Amounts]


@dataclass(frozen=True)
class Option:
    """A channel count that a group may get, and the importance that it gives up for it."""

    group: str
    channels: int
    lost: float


@dataclass(frozen=True)
class JointCut:
    """The proposal of one round, which changes all groups at once; `before` are the widths that it starts from."""

    number: int
    before: Widths
    proposal: Proposal
    driver: str
    target: float

    def step(self, accepted: Accepted) -> Step:
        """The step that makes it the current model; `accepted` is its evaluation."""
        widths = self.proposal.widths
        return Step(
            iteration=self.number,
            group=TOGETHER,
            channels=(sum(self.before.values()), sum(widths.values())),
            widths=widths,
            driver=self.driver,
            target=self.target,
            resources=self.proposal.resources,
            accepted=accepted,
            tried=(),
            skipped=tuple(name for name in self.before if self.before[name] == widths[name]),
        )


def has_rounds(problem: Problem, steps: Sequence[Step]) -> bool:
    """Whether a round comes next; NetAdapt's loop does what remains to converge on the budget.

    That is to give channels back, or to cut on where a model was measured too slow.
    """
    over = met(amounts_after(problem, steps), problem.limits) or len(steps) >= problem.max_iterations
    return not over and _rounds_done(problem, steps) < ROUNDS


def propose(problem: Problem, steps: Sequence[Step], importances: Mapping[str, np.ndarray]) -> JointCut | None:
    """The next round's cut of all groups.

    Args:
        problem: What the search is to solve.
        steps: The steps accepted so far.
        importances: By group, the importance of every channel of the current model, least first.

    Returns:
        The cut; None if no group can go down.
    """
    widths, current = widths_after(problem, steps), amounts_after(problem, steps)
    before = steps[-1].accepted if steps else problem.start
    predict = corrected(problem, before.correction)
    ceilings = ceilings_of(current, problem.limits, ROUNDS - _rounds_done(problem, steps))
    driver = furthest(problem.limits, current)
    chosen = solve(problem.choices, widths, importances, predict, ceilings)
    if chosen == widths:
        return None
    proposal = Proposal(TOGETHER, sum(chosen.values()), chosen, predict(chosen))
    return JointCut(len(steps) + 1, widths, proposal, driver, ceilings[driver])


def _rounds_done(problem: Problem, steps: Sequence[Step]) -> int:
    return sum(step.group == TOGETHER for step in steps[problem.since :])


def ceilings_of(current: Amounts, limits: Amounts, rounds: int = ROUNDS) -> dict[str, float]:
    """The most of each resource that a model may use after a round, the first of `rounds` that remain."""
    ceilings = {name: _ceiling(current[name], limit, rounds) for name, limit in limits.items()}
    if "latency" in current:  # some cuts make models slower
        ceilings.setdefault("latency", current["latency"])
    return ceilings


def importances_of(trace: Trace, criterion: str | Criterion, branches: Sequence[Branch] = ()) -> dict[str, np.ndarray]:
    """By group or branch, the importance of every channel of a model, least first; channels tied together share it.

    To lose all channels of one group of a branch is to lose the branch, but for the constants it adds: a branch is
    worth as much as the least important of its groups. A branch without groups of its own has no importance.
    """
    importances = {}
    for name, scores in importance(trace, criterion).items():
        group = trace.group(name)
        importances[name] = np.sort(class_totals(trace, group, scores)).repeat(group.step) / group.step
    own = {b.name: [importances[name] for name in b.groups if name in importances] for b in branches}
    return importances | {n: np.array([min(float(s.sum()) for s in groups)]) for n, groups in own.items() if groups}


def _ceiling(current: float, limit: float, rounds: int) -> float:
    """What is allowed after the first of `rounds`: equal ratios, so that each round cuts as deep."""
    return float(current * (limit / current) ** (1 / rounds)) if current > limit else limit


@stage("choosing widths")
def solve(
    choices: Sequence[ChannelChoices],
    widths: Widths,
    scores: Mapping[str, np.ndarray],
    predict: Predict,
    ceilings: Amounts,
) -> dict[str, int]:
    """Channel counts, none above `widths`, that keep most importance while no resource exceeds its ceiling.

    Args:
        choices: The channel counts that each group may have.
        widths: The channel counts of the current model.
        scores: By group, the importance of every channel, least first.
        predict: Predicts the resources at given widths.
        ceilings: The most of each resource that is allowed, in base units.

    Returns:
        The channel count of every group; where no counts keep to the ceilings, those that come nearest.
    """
    groups = [options for c in choices if len(options := _options(c, widths[c.group], scores.get(c.group))) > 1]
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
    return _raised(groups, counts, predict, ceilings) if met(predict(counts), ceilings) else counts


def _options(choice: ChannelChoices, channels: int, scores: np.ndarray | None) -> list[Option]:
    """From the present count down; none but the present one for a group without importances."""
    below = [n for n in choice.coarse if n < channels] or [n for n in choice.fine if n < channels]
    if scores is None or not below:
        return []
    if len(below) >= MOST_OPTIONS:
        below = [below[i] for i in np.unique(np.linspace(0, len(below) - 1, MOST_OPTIONS - 1).round().astype(int))]
    total = np.concatenate([[0.0], np.cumsum(scores)])
    return [Option(choice.group, n, float(total[channels - n])) for n in (channels, *below)]


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
    """Count by count down, least importance per resource saved first, until every ceiling holds or nothing helps."""
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
    """Count by count up, most importance regained first, as long as every ceiling holds."""
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
