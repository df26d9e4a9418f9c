"""Where NetAdapt's loop begins: at widths that error curves choose for most of the way to the budget.

The first iterations cut what costs nearly nothing, wherever they begin; which groups pay shows near the budget. So the
curves go there at once, and the loop, which evaluates what it does, goes the rest of the way.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from netadapt_onnx.search.netadapt import Problem, Step, amounts_after, met

# The shares of the way to the limits that the curves go, where the user leaves it open: for networks that are cheap to
# train, whose training makes up for what curves get wrong, and for others.
CHEAP_SHARE, COSTLY_SHARE = 0.95, 0.75


def is_due(problem: Problem, steps: Sequence[Step]) -> bool:
    """Whether the search for a target is at its beginning, above the limits."""
    begins = len(steps) == problem.since and len(steps) < problem.max_iterations
    return begins and not met(amounts_after(problem, steps), problem.limits)


def jump_problem(problem: Problem, steps: Sequence[Step], share: float) -> Problem:
    """The same problem with limits that are a share of the way from the current resources to the real ones."""
    current = amounts_after(problem, steps)
    limits = {n: limit + (1 - share) * max(0.0, current[n] - limit) for n, limit in problem.limits.items()}
    return replace(problem, limits=limits)
