"""The curves strategy as pure functions: widths of all groups at once for any target, from each group's error curve.

Removing channels from one group adds an error to the layers that read it; structured OBS gives that error at every
count (`surgery/criteria/obs.py`). One probe of each group tells how much of it reaches the network's outputs, and an
integer program over the curves and the predicted resources chooses the widths: ZipLM's way (Kurtic et al., NeurIPS
2023).

Errors of several groups do not simply add up: neighbours make up for each other, or need one another. So a few powers
of the losses are tried, and then some at random around the best, as in SPDY (Frantar & Alistarh, ICML 2022); the models
are solved and evaluated.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from netadapt_onnx.search.allowed_counts import ChannelChoices, used_widths
from netadapt_onnx.search.joint_iteration import best_first
from netadapt_onnx.search.netadapt import Problem, Step, amounts_after, corrected, furthest, met, widths_after
from netadapt_onnx.search.proposals import TOGETHER, Proposal, joint_proposal
from netadapt_onnx.search.width_program import Losses, solve

# A group is probed where its curve comes nearest to this error: large enough to be seen at the outputs, small enough to
# be in the range that matters.
PROBE_ERROR = 0.1
# Losses to these powers are tried: below 1 they spare many groups at the cost of a few, above 1 they spread the cut.
POWERS = (1.0, 0.5, 2.0)
# Then losses are drawn around those of the best widths so far, each times e^N(0, sigma), so many at a time. Sigma is
# halved after a round without a better one. The share of an EfficientNet-Lite0's outputs that is explained rose from
# 0.779 to 0.804 in 6 draws at 0.2 and to 0.809 in 6 at 0.1, not in 6 at 0.3 nor in 28 at 0.5 of other runs. On small
# networks 0.2 finds what 0.5 does with half of the models: many draws lead to widths that were had already.
ROUND, SIGMA = 4, 0.2
# Counts of one group that the program chooses among, before it gives back what fits.
MOST_OPTIONS = 12
# A measurement that differs from the prediction costs one more round.
MOST_ROUNDS = 4
# Widths that use so much of the limit leave nothing that another round of models would pay for.
ENOUGH = 0.95


@dataclass(frozen=True)
class Probe:
    """One group at a count with all others whole, and what the network's outputs lose by it.

    Attributes:
        group: The group, or the branch (whose count is then 0).
        channels: Its channel count.
        loss: The share of the variance of the outputs that is no longer explained; None: it failed.
    """

    group: str
    channels: int
    loss: float | None


def probe_counts(choices: Sequence[ChannelChoices], errors: Losses) -> dict[str, int]:
    """By group, the coarse count at which it is probed; branches are probed without.

    Args:
        choices: The channel counts that each group may have.
        errors: By group, the error when 0, 1, 2 ... of its channels are gone; a branch has none.
    """
    counts: dict[str, int] = {}
    for choice in choices:
        below = choice.coarse or choice.fine[1:]
        if not below:
            continue
        curve = errors.get(choice.group)
        if curve is None:
            counts[choice.group] = below[-1]
            continue
        distance = {n: abs(float(curve[choice.channels - n]) - PROBE_ERROR) for n in below}
        counts[choice.group] = min(below, key=lambda n: (distance[n], -n))
    return counts


def losses_of(choices: Sequence[ChannelChoices], errors: Losses, probes: Sequence[Probe]) -> dict[str, np.ndarray]:
    """By group, what the outputs lose when 0, 1, 2 ... of its channels are gone: its curve, scaled by its probe.

    Groups whose probe failed are left out: they are not cut.
    """
    channels = {choice.group: choice.channels for choice in choices}
    losses: dict[str, np.ndarray] = {}
    for probe in probes:
        if probe.loss is None:
            continue
        loss, gone = max(probe.loss, 0.0), channels[probe.group] - probe.channels
        curve = errors.get(probe.group)
        if curve is None:
            losses[probe.group] = np.minimum(np.arange(channels[probe.group] + 1) / gone, 1.0) * loss
        else:
            losses[probe.group] = curve * (loss / float(curve[gone])) if curve[gone] > 0 else curve
    return losses


def is_due(problem: Problem, steps: Sequence[Step]) -> bool:
    """Whether the widths of a target are to be chosen: first, and again where a measurement says otherwise.

    Where nothing new was measured, another round would have nothing to offer but what lost the one before.
    """
    current = amounts_after(problem, steps)
    driver = furthest(problem.limits, current)
    converged = met(current, problem.limits) and current[driver] >= ENOUGH * problem.limits[driver]
    if converged or not has_rounds(problem, steps):
        return False
    before = (problem.start, *(step.accepted for step in steps))[-2:]
    return len(steps) == problem.since or before[0].correction != before[-1].correction


def has_rounds(problem: Problem, steps: Sequence[Step]) -> bool:
    """Whether widths may be chosen once more for a target."""
    rounds = sum(step.group == TOGETHER for step in steps[problem.since :])
    return rounds < MOST_ROUNDS and len(steps) < problem.max_iterations


@dataclass(frozen=True)
class Competition:
    """Joint proposals that were evaluated.

    Attributes:
        proposals: The proposals, all of different widths.
        accuracies: Their accuracies once they are solved; None for one that failed.
    """

    proposals: tuple[Proposal, ...]
    accuracies: tuple[float | None, ...]

    def best(self) -> int | None:
        """The number of the best proposal, the first of equals; None if all have failed."""
        return next(iter(self.order()), None)

    def order(self) -> list[int]:
        """The numbers of the proposals that did not fail, the best first."""
        return best_first(dict(enumerate(self.accuracies)))


def is_better(problem: Problem, steps: Sequence[Step], competition: Competition) -> bool:
    """Whether the best of a competition is better than the current model, as far as that is within the limits."""
    best, now = competition.best(), (steps[-1].accepted if steps else problem.start).ranked
    if best is None or now is None or not met(amounts_after(problem, steps), problem.limits):
        return best is not None
    return (competition.accuracies[best] or 0.0) > now


# Evaluates some of the proposals, by their numbers.
Evaluate = Callable[[Sequence[Proposal], Sequence[int]], Sequence[float | None]]


def compete(problem: Problem, steps: Sequence[Step], losses: Losses, evaluate: Evaluate, draws: int = 0) -> Competition:
    """Choose the widths that lose least within the limits, by several versions of the losses, and evaluate them.

    They are chosen from the original's widths: what an earlier target has cut may be wider again. Widths that the
    search has had for this target are not chosen again.

    Args:
        problem: What the search is to solve.
        steps: The steps accepted so far.
        losses: By group, what the outputs lose when 0, 1, 2 ... of its channels are gone.
        evaluate: Evaluates proposals.
        draws: How many times losses are drawn around the best.
    """
    program = _Program(problem, steps)
    versions = [{name: loss**power for name, loss in losses.items()} for power in POWERS]
    methods = ["curves" if power == 1.0 else f"curves^{power:g}" for power in POWERS]
    result = program.extended(Competition((), ()), versions, methods, evaluate)
    rng, sigma = np.random.default_rng(0), SIGMA
    for first in range(0, draws, ROUND):
        best = result.best()
        if best is None:
            break
        center = program.losses_of[result.proposals[best].method or ""]
        numbers = range(first, min(first + ROUND, draws))
        drawn = [{n: loss * math.exp(sigma * rng.normal()) for n, loss in center.items()} for _ in numbers]
        result = program.extended(result, drawn, [f"curves, draw {n + 1}" for n in numbers], evaluate)
        sigma = sigma / 2 if result.best() == best else sigma
    return result


class _Program:
    """Chooses widths for versions of the losses; widths that it has seen are left out."""

    def __init__(self, problem: Problem, steps: Sequence[Step]) -> None:
        self._problem = problem
        self._unpruned = widths_after(problem, ())
        self._predict = corrected(problem, (steps[-1].accepted if steps else problem.start).correction)
        self._seen = [self._unpruned, *(used_widths(problem.choices, step.widths) for step in steps[problem.since :])]
        self.losses_of: dict[str, Losses] = {}

    def extended(
        self, before: Competition, versions: Sequence[Losses], methods: Sequence[str], evaluate: Evaluate
    ) -> Competition:
        """A competition with the widths of more versions of the losses."""
        proposals = list(before.proposals)
        for losses, method in zip(versions, methods, strict=True):
            widths = solve(
                self._problem.choices, self._unpruned, losses, self._predict, self._problem.limits, MOST_OPTIONS
            )
            used = used_widths(self._problem.choices, widths)
            if used not in self._seen:
                self._seen.append(used)
                self.losses_of[method] = losses
                proposals.append(joint_proposal(method, widths, self._predict(widths)))
        fresh = range(len(before.proposals), len(proposals))
        accuracies = evaluate(proposals, fresh) if fresh else ()
        return Competition(tuple(proposals), (*before.accuracies, *accuracies))
