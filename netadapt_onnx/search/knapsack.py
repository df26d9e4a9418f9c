"""The knapsack strategy as pure functions: all groups at once, in a few rounds, without proposals to evaluate.

Each round asks an integer program (`width_program.py`) which channel count every group gets: most importance kept,
predicted resources within the round's targets. After HALP (Shen et al., NeurIPS 2022): latency-aware pruning as a
knapsack over groups of channels that share a latency step, with first-order Taylor importance, scored anew between
rounds.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from netadapt_onnx.search.joint_iteration import JointIteration
from netadapt_onnx.search.netadapt import Problem, Step, amounts_after, corrected, furthest, met, widths_after
from netadapt_onnx.search.proposals import TOGETHER, Amounts, Proposal, joint_proposal
from netadapt_onnx.search.width_program import solve
from netadapt_onnx.surgery.criteria.scores import Criterion
from netadapt_onnx.surgery.criteria.selection import class_totals, importance
from netadapt_onnx.surgery.residual_branches import Branch
from netadapt_onnx.surgery.trace import Trace

# The way to the budget in equal shares of what is left; importances are scored anew after each.
ROUNDS = 5


def has_rounds(problem: Problem, steps: Sequence[Step]) -> bool:
    """Whether a round comes next; NetAdapt's loop does what remains to converge on the budget.

    That is to give channels back, or to cut on where a model was measured too slow.
    """
    over = met(amounts_after(problem, steps), problem.limits) or len(steps) >= problem.max_iterations
    return not over and _rounds_done(problem, steps) < ROUNDS


def propose(problem: Problem, steps: Sequence[Step], importances: Mapping[str, np.ndarray]) -> JointIteration | None:
    """The next round's cut of all groups.

    Args:
        problem: What the search is to solve.
        steps: The steps accepted so far.
        importances: By group, the importance of every channel of the current model, least first.

    Returns:
        The iteration; None if no group can go down.
    """
    widths, current = widths_after(problem, steps), amounts_after(problem, steps)
    before = steps[-1].accepted if steps else problem.start
    predict = corrected(problem, before.correction)
    ceilings = ceilings_of(current, problem.limits, ROUNDS - _rounds_done(problem, steps))
    driver = furthest(problem.limits, current)
    chosen = solve(problem.choices, widths, losses_of(importances), predict, ceilings)
    if chosen == widths:
        return None
    proposal = joint_proposal("knapsack", chosen, predict(chosen))
    return JointIteration(len(steps) + 1, widths, driver, ceilings[driver], (proposal,))


def whole_way(problem: Problem, steps: Sequence[Step], importances: Mapping[str, np.ndarray]) -> list[Proposal]:
    """The widths that keep most importance within the limits, in one round from the original.

    Args:
        problem: What the search is to solve.
        steps: The steps accepted so far, for what measurements say of predictions.
        importances: By group, the importance of every channel of the original, least first.
    """
    predict = corrected(problem, (steps[-1].accepted if steps else problem.start).correction)
    widths = solve(problem.choices, widths_after(problem, ()), losses_of(importances), predict, problem.limits)
    return [joint_proposal("knapsack", widths, predict(widths))]


def losses_of(importances: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """By group, the importance that is lost when 0, 1, 2 ... channels are gone, least important first."""
    return {name: np.concatenate([[0.0], np.cumsum(scores)]) for name, scores in importances.items()}


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
