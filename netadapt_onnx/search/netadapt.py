"""NetAdapt (Yang et al., ECCV 2018) as pure functions: steps in, proposals out; accuracies in, the next step out.

Each iteration lowers the resource that is furthest above its limit a little: every group proposes its largest channel
count that does so, proposals are ranked by held-out accuracy, and the winner becomes the current model. Nothing here
evaluates, writes or measures anything; `iteration_loop.py` does, between these functions.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

from netadapt_onnx.errors import NetadaptError
from netadapt_onnx.search.allowed_counts import ChannelChoices
from netadapt_onnx.search.proposals import Amounts, Goal, Proposal, Proposer, Widths
from netadapt_onnx.search.schedule import Schedule

Select = Literal["ratio", "accuracy"]

# A model that uses between this share of the budget and the budget has converged on it.
TARGET_FRACTION = 0.97
# Giving channels back ends by itself for exact resources; measured ones may swing to and fro.
MOST_WIDENINGS = 4
# The `group` of a step that is the trained model itself, where a search goes on from it.
TRAINED = "the final training"


@dataclass(frozen=True)
class EvaluatedProposal:
    """A proposal, its predicted resources, and its held-out accuracy after a short adaptation (None: it failed).

    `finetuned` is a finalist's accuracy after its short training, or once all of its layers were solved in order.
    """

    group: str
    channels: int
    resources: Amounts
    accuracy: float | None
    finetuned: float | None = None

    @property
    def adapted_accuracy(self) -> float | None:
        """The accuracy after all that was done to the proposal."""
        return self.accuracy if self.finetuned is None else self.finetuned


@dataclass(frozen=True)
class Accepted:
    """The evaluation of a winner that has become the current model.

    `ranked` is its accuracy on the samples that rank proposals (None: as it was ranked), `accuracy` that on all
    held-out samples; `correction` multiplies predictions of a resource from here on (measured over predicted);
    `measured` holds the resources that were measured, `measured_ci95` their intervals; the others are predicted.
    """

    accuracy: float
    ranked: float | None
    correction: Amounts
    measured: Amounts = field(default_factory=dict)
    measured_ci95: Mapping[str, tuple[float, float]] = field(default_factory=dict)


@dataclass(frozen=True)
class Step:
    """One accepted iteration: a line of `history.jsonl`."""

    iteration: int
    group: str
    channels: tuple[int, int]
    widths: Widths
    driver: str
    target: float
    resources: Amounts
    accepted: Accepted
    tried: tuple[EvaluatedProposal, ...]
    skipped: tuple[str, ...]

    def changes(self, widths: Widths) -> Mapping[str, tuple[int, int]]:
        """The channels before and after, by what the step changed: a group, both groups of a swap, or all together.

        Args:
            widths: Those before the step; empty for the original's, from which no step swaps.
        """
        changed = {name: (n, self.widths[name]) for name, n in widths.items() if self.widths[name] != n}
        if self.group not in changed or len(changed) != 2:
            return {self.group: self.channels}
        return {name: changed[name] for name in sorted(changed, key=lambda name: name != self.group)}

    @property
    def is_widening(self) -> bool:
        """Whether this step gave channels back."""
        return self.channels[1] > self.channels[0]


@dataclass(frozen=True)
class Problem:
    """What a search is to solve, all of it plain data but for the prediction of resources.

    Attributes:
        choices: The channel counts that each group may have.
        resources: Predicts the resources of the model at given widths, in base units.
        limits: The budgets in base units; measured resources have theirs times a margin.
        start: The evaluation of the original.
        schedule: How far each iteration goes.
        max_iterations: The total number of steps, over all resumes.
        select: What the winner has best: accuracy lost per resource saved, or accuracy.
        finalists: How many of the best proposals are trained for a short time, or solved in order, before one of them
            wins.
        prune_small: Whether groups that cannot reach an iteration's target alone go as far as they can.
        since: The number of steps that earlier, looser budgets have taken.
        margins: The share below 1 that each measured resource's limit was multiplied by.
        may_widen: Whether channels may be given back.
    """

    choices: Sequence[ChannelChoices]
    resources: Callable[[Widths], Amounts]
    limits: Amounts
    start: Accepted
    schedule: Schedule
    max_iterations: int
    select: Select = "ratio"
    finalists: int = 0
    prune_small: bool = False
    since: int = 0
    margins: Amounts = field(default_factory=dict)
    may_widen: bool = True

    def converged_amount(self, resource: str) -> float:
        """The least of a resource that a model which has converged on its budget uses, in base units."""
        return TARGET_FRACTION * self.limits[resource] / self.margins.get(resource, 1.0)


@dataclass(frozen=True)
class Iteration:
    """The proposals of one iteration, to be ranked.

    Attributes:
        number: The iteration, from 1.
        goal: What every proposal does.
        proposals: One per group that can, or pairs of groups where one pays for another.
        widths: The channel counts of the current model.
        ranking_accuracy: The current model's accuracy on the samples that rank proposals.
        select: What the winner has best.
        skipped: The groups that propose nothing.
    """

    number: int
    goal: Goal
    proposals: Sequence[Proposal]
    widths: Widths
    ranking_accuracy: float
    select: Select
    skipped: tuple[str, ...]

    @property
    def is_widening(self) -> bool:
        """Whether the proposals give channels back."""
        return met(self.goal.current, self.goal.limits)

    def part(self, numbers: Sequence[int]) -> Iteration:
        """The same with these proposals only, where the others are not worth an evaluation."""
        proposals = [self.proposals[number] for number in numbers]
        others = (p.group for n, p in enumerate(self.proposals) if n not in set(numbers))
        return replace(self, proposals=proposals, skipped=(*self.skipped, *others))

    def ranking(self, accuracies: Sequence[float | None]) -> Ranking:
        """The proposals with their accuracies, in the same order; None or NaN for one that failed."""
        pairs = zip(self.proposals, accuracies, strict=True)
        return Ranking(self, tuple(EvaluatedProposal(p.group, p.channels, p.resources, _finite(a)) for p, a in pairs))


@dataclass(frozen=True)
class Ranking:
    """The evaluated proposals of an iteration, in the order of its proposals."""

    iteration: Iteration
    evaluated: tuple[EvaluatedProposal, ...]

    def order(self) -> list[int]:
        """The numbers of the proposals that did not fail, best first. Raises NetadaptError if all have failed."""
        iteration = self.iteration
        return order(self.evaluated, iteration.goal, iteration.ranking_accuracy, iteration.select)

    def with_finetuned(self, numbers: Sequence[int], accuracies: Sequence[float | None]) -> Ranking:
        """The same with the accuracies of these proposals after their short training; None for one that failed."""
        finetuned = dict(zip(numbers, accuracies, strict=True))
        evaluated = (replace(e, finetuned=_finite(finetuned.get(n))) for n, e in enumerate(self.evaluated))
        return replace(self, evaluated=tuple(evaluated))

    def step(self, number: int, accepted: Accepted) -> Step:
        """The step that makes a proposal the current model; `accepted` is its evaluation."""
        iteration, winner = self.iteration, self.iteration.proposals[number]
        if accepted.ranked is None:
            accepted = replace(accepted, ranked=self.evaluated[number].adapted_accuracy)
        return Step(
            iteration=iteration.number,
            group=winner.group,
            channels=(iteration.widths[winner.group], winner.channels),
            widths=winner.widths,
            driver=iteration.goal.driver,
            target=iteration.goal.target,
            resources=winner.resources,
            accepted=accepted,
            tried=self.evaluated,
            skipped=iteration.skipped,
        )


def propose(problem: Problem, steps: Sequence[Step]) -> Iteration | None:
    """The next iteration's proposals.

    Args:
        problem: What the search is to solve.
        steps: The steps accepted so far.

    Returns:
        The proposals; None where every limit holds and the model has converged on its budget as well as it can, where
        `max_iterations` are over, and where no group can go down any further.
    """
    if len(steps) >= problem.max_iterations:
        return None
    current = amounts_after(problem, steps)
    driver = furthest(problem.limits, current)
    widening = met(current, problem.limits)
    if widening:
        goal = Goal(driver, problem.limits[driver], current, problem.limits, problem.converged_amount(driver))
        proposals = _widenings(problem, steps, goal)
    else:
        goal = _reduction_goal(problem, steps, driver, current)
        proposals = _proposer(problem, steps).cuts(widths_after(problem, steps), goal)
    if not proposals:
        return None
    proposing = {proposal.group for proposal in proposals}
    before = steps[-1].accepted if steps else problem.start
    return Iteration(
        number=len(steps) + 1,
        goal=goal,
        proposals=proposals,
        widths=widths_after(problem, steps),
        ranking_accuracy=before.ranked or 0.0,
        select="accuracy" if widening else problem.select,
        skipped=tuple(choice.group for choice in problem.choices if choice.group not in proposing),
    )


def widths_after(problem: Problem, steps: Sequence[Step]) -> Widths:
    """The channel count of every group after `steps`."""
    return steps[-1].widths if steps else {choice.group: choice.channels for choice in problem.choices}


def amounts_after(problem: Problem, steps: Sequence[Step]) -> Amounts:
    """The resources after `steps`: predicted, times the correction that the last measurement gave."""
    accepted = steps[-1].accepted if steps else problem.start
    return corrected(problem, accepted.correction)(widths_after(problem, steps))


def met(amounts: Amounts, limits: Amounts) -> bool:
    """Whether every limit holds."""
    return all(amounts[name] <= limit for name, limit in limits.items())


def furthest(limits: Amounts, amounts: Amounts) -> str:
    """The limited resource that is furthest above its limit, or least below it: the one that drives a step."""
    return max(limits, key=lambda name: amounts[name] / limits[name])


def corrected(problem: Problem, correction: Amounts) -> Callable[[Widths], Amounts]:
    """A function that predicts the resources of widths, each times its correction (measured over predicted)."""

    def amounts(widths: Widths) -> Amounts:
        return {name: value * correction.get(name, 1.0) for name, value in problem.resources(widths).items()}

    return amounts


def order(evaluated: Sequence[EvaluatedProposal], goal: Goal, ranking_accuracy: float, select: Select) -> list[int]:
    """The numbers of the proposals that did not fail, best first: highest accuracy, or least lost per resource saved.

    What is saved beyond the budget counts for nothing. Finalists, once they are trained, come before all others; on the
    step that is to reach the budget those that converge on it do. Ties go to the earlier group.

    Args:
        evaluated: The proposals with their accuracies.
        goal: What every proposal does.
        ranking_accuracy: The current model's accuracy on the samples that rank proposals.
        select: What the best proposal has best.

    Raises:
        NetadaptError: All proposals have failed.
    """
    accuracies = [(number, p, a) for number, p in enumerate(evaluated) if (a := p.adapted_accuracy) is not None]
    if not accuracies:
        raise NetadaptError(
            f"all {len(evaluated)} proposals of the iteration failed",
            hint="the run directory keeps their logs under iterations/",
            code="proposals-failed",
        )
    limit = goal.limits[goal.driver]

    def key(entry: tuple[int, EvaluatedProposal, float]) -> tuple[bool, bool, float]:
        _, proposal, accuracy = entry
        amount = proposal.resources[goal.driver]
        converges = goal.reaches_budget and goal.converged_amount <= amount <= limit
        saved = goal.current[goal.driver] - max(amount, limit)
        cost = -accuracy if select == "accuracy" else (ranking_accuracy - accuracy) / saved
        return proposal.finetuned is None, not converges, cost

    return [number for number, _, _ in sorted(accuracies, key=key)]


def _proposer(problem: Problem, steps: Sequence[Step]) -> Proposer:
    before = steps[-1].accepted if steps else problem.start
    return Proposer(problem.choices, corrected(problem, before.correction), prune_small=problem.prune_small)


def _reduction_goal(problem: Problem, steps: Sequence[Step], driver: str, current: Amounts) -> Goal:
    """The goal of an iteration that lowers the driving resource."""
    limit = problem.limits[driver]
    initial = corrected(problem, problem.start.correction)(widths_after(problem, ()))[driver]
    target = problem.schedule.target(len(steps) + 1, initial, current[driver], limit)
    # What would remain after it is not worth a step of its own.
    target = limit if target * TARGET_FRACTION <= limit else target
    return Goal(driver, target, current, problem.limits, problem.converged_amount(driver))


def _widenings(problem: Problem, steps: Sequence[Step], goal: Goal) -> list[Proposal]:
    """Proposals that use more of the budget than a model that is within it; none if it has converged on it."""
    widenings = sum(step.is_widening for step in steps[problem.since :])
    if not problem.may_widen or widenings >= MOST_WIDENINGS or goal.current[goal.driver] >= goal.converged_amount:
        return []
    # What was given back once and then measured too slow is not given back again.
    earlier = [step.widths for step in steps]
    proposer, widths = _proposer(problem, steps), widths_after(problem, steps)
    for proposals in (proposer.widen_proposals, proposer.swap_proposals):
        fresh = [proposal for proposal in proposals(widths, goal) if proposal.widths not in earlier]
        if fresh:
            return fresh
    return []


def _finite(accuracy: float | None) -> float | None:
    return accuracy if accuracy is not None and math.isfinite(accuracy) else None
