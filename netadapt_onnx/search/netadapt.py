"""NetAdapt's loop (Yang et al., ECCV 2018): pure, everything it touches is passed in.

Each iteration lowers the resource that is furthest above its limit a little: every group proposes its largest count
that does so, proposals are ranked by held-out accuracy, the winner becomes the current model.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

from netadapt_onnx.errors import NetadaptError
from netadapt_onnx.search.channel_choices import ChannelChoices
from netadapt_onnx.search.proposals import Amounts, Goal, Proposal, Proposer, Widths
from netadapt_onnx.search.schedule import DEFAULT_ITERATIONS, Schedule

Select = Literal["ratio", "accuracy"]

# A model between this share of the budget and the budget has landed on it.
TARGET_FRACTION = 0.97
# Giving channels back ends by itself for exact resources; measured ones may swing to and fro.
MOST_GROWTHS = 4
# What a step that changes many groups at once is called.
TOGETHER = "every group"
# And the trained model itself, where a search goes on from it.
TRAINED = "the final training"


@dataclass(frozen=True)
class EvaluatedProposal:
    """A proposal, what it was predicted to cost, and its held-out accuracy after a short adaptation (None: failed).

    `finetuned` is a finalist's accuracy after its short training.
    """

    group: str
    channels: int
    resources: Amounts
    accuracy: float | None
    finetuned: float | None = None


@dataclass(frozen=True)
class Accepted:
    """What is known of a winner once it is the current model.

    `ranked` is its accuracy on the samples that rank proposals (None: as it was ranked), `accuracy` on the whole
    held-out split; `correction` multiplies predictions of a resource from here on (measured over predicted);
    `measured` is what was measured of it, `measured_ci95` in which interval; the other resources are predicted.
    """

    accuracy: float
    ranked: float | None
    correction: Amounts
    measured: Amounts = field(default_factory=dict)
    measured_ci95: Mapping[str, tuple[float, float]] = field(default_factory=dict)


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
    tried: tuple[EvaluatedProposal, ...]
    skipped: tuple[str, ...]

    @property
    def grew(self) -> bool:
        """Whether this step gave channels back."""
        return self.channels[1] > self.channels[0]


@dataclass(frozen=True)
class Problem:
    """What the loop works on.

    `resources` predicts the resources of given widths; `limits` are the budgets in base units, those that are measured
    times a share below 1 that `margins` names; `start` is what is known of the original. `rank` adapts each proposal
    briefly and returns held-out accuracies in order (None: failed); `accept` makes a proposal the current model.
    `refine`, if there is one, trains the `finalists` best proposals for a short time and returns their accuracies.
    `since` is the number of steps that earlier, looser budgets have taken; `widens` whether channels may be given back.
    """

    ladders: Sequence[ChannelChoices]
    resources: Callable[[Widths], Amounts]
    limits: Amounts
    start: Accepted
    rank: Callable[[int, Sequence[Proposal]], Sequence[float | None]]
    accept: Callable[[int, Proposal], Accepted]
    schedule: Schedule
    select: Select = "ratio"
    max_iterations: int = DEFAULT_ITERATIONS
    refine: Callable[[int, Sequence[Proposal]], Sequence[float | None]] | None = None
    finalists: int = 0
    prune_small: bool = False
    since: int = 0
    margins: Amounts = field(default_factory=dict)
    widens: bool = True

    def landed(self, resource: str) -> float:
        """What a model that has landed on the budget uses at least."""
        return TARGET_FRACTION * self.limits[resource] / self.margins.get(resource, 1.0)


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
    return corrected(problem, accepted.correction)(widths_after(problem, history))


def met(amounts: Amounts, limits: Amounts) -> bool:
    """Whether every limit holds."""
    return all(amounts[name] <= limit for name, limit in limits.items())


def corrected(problem: Problem, correction: Amounts) -> Callable[[Widths], Amounts]:
    """What predicts the resources of widths, given measured over predicted."""

    def amounts(widths: Widths) -> Amounts:
        return {name: value * correction.get(name, 1.0) for name, value in problem.resources(widths).items()}

    return amounts


def _step(problem: Problem, steps: Sequence[Step]) -> Step | None:
    before = steps[-1].accepted if steps else problem.start
    widths = widths_after(problem, steps)
    current = amounts_after(problem, steps)
    driver = max(problem.limits, key=lambda name: current[name] / problem.limits[name])
    proposer = Proposer(problem.ladders, corrected(problem, before.correction), prune_small=problem.prune_small)
    iteration = len(steps) + 1
    growing = met(current, problem.limits)
    limit, landed = problem.limits[driver], problem.landed(driver)
    if growing:
        if (
            not problem.widens
            or sum(step.grew for step in steps[problem.since :]) >= MOST_GROWTHS
            or current[driver] >= landed
        ):
            return None
        goal = Goal(driver, limit, current, problem.limits, landed)
        # What was given back once and then found too slow is not given back again.
        been = [step.widths for step in steps]
        proposals = [p for p in proposer.growths(widths, goal) if p.widths not in been]
        if not proposals:
            proposals = [p for p in proposer.exchanges(widths, goal) if p.widths not in been]
    else:
        initial = corrected(problem, problem.start.correction)(widths_after(problem, ()))[driver]
        target = problem.schedule.target(iteration, initial, current[driver], limit)
        # What would be left is not worth a step of its own.
        goal = Goal(driver, limit if target * TARGET_FRACTION <= limit else target, current, problem.limits, landed)
        proposals = proposer.cuts(widths, goal)
    if not proposals:
        return None
    accuracies = problem.rank(iteration, proposals)
    tried = tuple(
        EvaluatedProposal(p.group, p.channels, p.resources, _finite(a))
        for p, a in zip(proposals, accuracies, strict=True)
    )
    select: Select = "accuracy" if growing else problem.select
    if problem.refine is not None:
        best = order(tried, goal, before.ranked or 0.0, select)[: problem.finalists]
        refined = dict(zip(best, problem.refine(iteration, [proposals[n] for n in best]), strict=True))
        tried = tuple(replace(t, finetuned=_finite(refined.get(n))) for n, t in enumerate(tried))
    number = order(tried, goal, before.ranked or 0.0, select)[0]
    chosen = proposals[number]
    accepted = problem.accept(iteration, chosen)
    if accepted.ranked is None:
        accepted = replace(accepted, ranked=_adapted(tried[number]))
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


def _finite(accuracy: float | None) -> float | None:
    return accuracy if accuracy is not None and math.isfinite(accuracy) else None


def _adapted(tried: EvaluatedProposal) -> float | None:
    """The accuracy after all that was done to a proposal."""
    return tried.accuracy if tried.finetuned is None else tried.finetuned


def order(tried: Sequence[EvaluatedProposal], goal: Goal, accuracy_now: float, select: Select) -> list[int]:
    """The proposals that did not fail, best first: highest accuracy, or least accuracy lost per resource saved.

    What is saved beyond the budget counts for nothing. Finalists, once they are trained, come before all others; on the
    step that is to reach the budget those that land on it do. Ties go to the earlier group. Raises NetadaptError if
    all have failed.
    """
    able = [(number, t, a) for number, t in enumerate(tried) if (a := _adapted(t)) is not None]
    if not able:
        raise NetadaptError(
            f"all {len(tried)} proposals of the iteration failed",
            hint="the run directory keeps their logs under iterations/",
            code="proposals-failed",
        )
    limit = goal.limits[goal.driver]

    def key(one: tuple[int, EvaluatedProposal, float]) -> tuple[bool, bool, float]:
        _, proposal, accuracy = one
        amount = proposal.resources[goal.driver]
        lands = goal.landing and goal.landed <= amount <= limit
        saved = goal.current[goal.driver] - max(amount, limit)
        cost = -accuracy if select == "accuracy" else (accuracy_now - accuracy) / saved
        return proposal.finetuned is None, not lands, cost

    return [number for number, _, _ in sorted(able, key=key)]
