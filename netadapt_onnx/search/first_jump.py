"""Where NetAdapt's loop begins: at widths that error curves choose for most of the way to the budget.

The first iterations cut what costs nearly nothing, wherever they begin; which groups pay shows near the budget. So the
curves go there at once, and the loop, which evaluates what it does, goes the rest of the way.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from netadapt_onnx.search.netadapt import Problem, Step, amounts_after, corrected, met, widths_after

# The share of the way from the original's resources to the limits that the curves go.
SHARE = 0.75
# Iterations after it that are looked at: many more than go a quarter of the way.
MOST_FOLLOWING = 1000


def is_due(problem: Problem, steps: Sequence[Step]) -> bool:
    """Whether the search for a target is at its beginning, above the limits."""
    begins = len(steps) == problem.since and len(steps) < problem.max_iterations
    return begins and not met(amounts_after(problem, steps), problem.limits)


def jump_problem(problem: Problem, steps: Sequence[Step]) -> Problem:
    """The same problem with limits that are `SHARE` of the way from the current resources to the real ones.

    They are nearer where so few iterations may follow that these, by the schedule, would not go the rest.
    """
    current = amounts_after(problem, steps)
    initial = corrected(problem, problem.start.correction)(widths_after(problem, ()))
    following = range(len(steps) + 2, min(problem.max_iterations, len(steps) + MOST_FOLLOWING) + 1)

    def rest(name: str, limit: float) -> float:
        planned = sum(problem.schedule.reduction(number, initial[name], limit) for number in following)
        return min((1 - SHARE) * max(0.0, current[name] - limit), planned)

    return replace(problem, limits={name: limit + rest(name, limit) for name, limit in problem.limits.items()})
