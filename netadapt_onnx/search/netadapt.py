"""NetAdapt's loop (Yang et al., ECCV 2018): pure, everything it touches is passed in.

Each iteration lowers the resource that is furthest above its limit a little: every group proposes its largest count
that does so, proposals are ranked by held-out accuracy, the winner becomes the current model.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from netadapt_onnx.errors import NetadaptError
from netadapt_onnx.search.proposal import Amounts, Goal, Ladder, Proposal, Proposer, Widths
from netadapt_onnx.search.schedule import DEFAULT_ITERATIONS, Schedule

Select = Literal["ratio", "accuracy"]

# A model between this share of the budget and the budget has landed on it.
LANDED = 0.97
# Giving channels back ends by itself for exact resources; measured ones may drift to and fro.
MOST_GROWTHS = 4


@dataclass(frozen=True)
class Tried:
    """A proposal, what it was predicted to cost, and its held-out accuracy after a short adaptation (None: failed)."""

    group: str
    channels: int
    resources: Amounts
    accuracy: float | None


@dataclass(frozen=True)
class Accepted:
    """What is known of a winner once it is the current model.

    `ranked` is its accuracy on the samples that rank proposals (None: as it was ranked), `accuracy` on the whole
    held-out split; `correction` multiplies predictions of a resource from here on (measured over predicted).
    """

    accuracy: float
    ranked: float | None
    correction: Amounts


@dataclass(frozen=True)
class Step:
    """One accepted iteration."""

    iteration: int
    group: str
    channels: tuple[int, int]
    widths: Widths
    driver: str
    target: float
    resources: Amounts
    accepted: Accepted
    tried: tuple[Tried, ...]
    skipped: tuple[str, ...]

    @property
    def grew(self) -> bool:
        """Whether this step gave channels back."""
        return self.channels[1] > self.channels[0]


@dataclass(frozen=True)
class Problem:
    """What the loop works on.

    `resources` predicts the resources of given widths; `limits` are the budgets in base units; `start` is what is known
    of the original. `rank` adapts each proposal briefly and returns held-out accuracies in order (None: failed);
    `accept` makes a proposal the current model.
    """

    ladders: Sequence[Ladder]
    resources: Callable[[Widths], Amounts]
    limits: Amounts
    start: Accepted
    rank: Callable[[int, Sequence[Proposal]], Sequence[float | None]]
    accept: Callable[[int, Proposal], Accepted]
    schedule: Schedule
    select: Select = "ratio"
    max_iterations: int = DEFAULT_ITERATIONS


def search(problem: Problem, history: Sequence[Step] = ()) -> Iterator[Step]:
    """Run the loop from the end of `history`, yielding each step once it is accepted.

    Ends when every limit holds (and the model has landed on its budget as well as it can), when `max_iterations`
    (a total) are over, or when no group can go down any further. Raises NetadaptError if all proposals of an iteration
    fail.
    """
    steps = list(history)
    while len(steps) < problem.max_iterations:
        step = _step(problem, steps)
        if step is None:
            return
        steps.append(step)
        yield step


def widths_after(problem: Problem, history: Sequence[Step]) -> Widths:
    """The channel count of every group after `history`."""
    return history[-1].widths if history else {rungs.group: rungs.channels for rungs in problem.ladders}


def amounts_after(problem: Problem, history: Sequence[Step]) -> Amounts:
    """The budgeted resources after `history`: predicted, times the correction that the last measurement gave."""
    accepted = history[-1].accepted if history else problem.start
    return _corrected(problem, accepted.correction)(widths_after(problem, history))


def met(amounts: Amounts, limits: Amounts) -> bool:
    """Whether every limit holds."""
    return all(amounts[name] <= limit for name, limit in limits.items())


def _corrected(problem: Problem, correction: Amounts) -> Callable[[Widths], Amounts]:
    def amounts(widths: Widths) -> Amounts:
        return {name: value * correction.get(name, 1.0) for name, value in problem.resources(widths).items()}

    return amounts


def _step(problem: Problem, steps: Sequence[Step]) -> Step | None:
    before = steps[-1].accepted if steps else problem.start
    widths = widths_after(problem, steps)
    current = amounts_after(problem, steps)
    driver = max(problem.limits, key=lambda name: current[name] / problem.limits[name])
    proposer = Proposer(problem.ladders, _corrected(problem, before.correction))
    iteration = len(steps) + 1
    growing = met(current, problem.limits)
    if growing:
        if not _may_grow(steps) or current[driver] >= LANDED * problem.limits[driver]:
            return None
        goal = Goal(driver, problem.limits[driver], current, problem.limits)
        proposals = proposer.growths(widths, goal)
    else:
        initial = _corrected(problem, problem.start.correction)(widths_after(problem, ()))[driver]
        target = problem.schedule.target(iteration, initial, current[driver], problem.limits[driver])
        goal = Goal(driver, target, current, problem.limits)
        proposals = proposer.cuts(widths, goal)
    if not proposals:
        return None
    accuracies = problem.rank(iteration, proposals)
    tried = tuple(
        Tried(p.group, p.channels, p.resources, a if a is not None and math.isfinite(a) else None)
        for p, a in zip(proposals, accuracies, strict=True)
    )
    number = winner(tried, goal, before.ranked or 0.0, "accuracy" if growing else problem.select)
    chosen = proposals[number]
    accepted = problem.accept(iteration, chosen)
    if accepted.ranked is None:
        accepted = replace(accepted, ranked=tried[number].accuracy)
    proposing = {p.group for p in proposals}
    return Step(
        iteration=iteration,
        group=chosen.group,
        channels=(widths[chosen.group], chosen.channels),
        widths=chosen.widths,
        driver=driver,
        target=goal.target,
        resources=chosen.resources,
        accepted=accepted,
        tried=tried,
        skipped=tuple(rungs.group for rungs in problem.ladders if rungs.group not in proposing),
    )


def _may_grow(steps: Sequence[Step]) -> bool:
    """Channels are given back after the cuts, never between two: measurements that drift must not make it swing."""
    growths = [step.grew for step in steps]
    first = growths.index(True) if True in growths else len(growths)
    return all(growths[first:]) and len(growths) - first < MOST_GROWTHS


def winner(tried: Sequence[Tried], goal: Goal, accuracy_now: float, select: Select) -> int:
    """Which proposal goes on: highest accuracy, or least accuracy lost per resource saved.

    On the step that is to reach the budget those that land on it come first. Ties go to the earlier group. Raises
    NetadaptError if all have failed.
    """
    able = [(number, t, t.accuracy) for number, t in enumerate(tried) if t.accuracy is not None]
    if not able:
        raise NetadaptError(
            f"all {len(tried)} proposals of the iteration failed",
            hint="the run directory keeps their logs under iterations/",
            code="proposals-failed",
        )
    if goal.landing:
        limit = goal.limits[goal.driver]
        able = [one for one in able if LANDED * limit <= one[1].resources[goal.driver] <= limit] or able

    def cost(one: tuple[int, Tried, float]) -> float:
        _, proposal, accuracy = one
        saved = goal.current[goal.driver] - proposal.resources[goal.driver]
        return -accuracy if select == "accuracy" else (accuracy_now - accuracy) / saved

    return min(able, key=cost)[0]
