"""The curves strategy as pure functions: widths of all groups at once for any target, from each group's error curve.

Removing channels from one group adds an error to the layers that read it; structured OBS gives that error at every
count (`surgery/criteria/obs.py`). One probe of each group tells how much of it reaches the network's outputs, and an
integer program over the curves and the predicted resources chooses the widths: ZipLM's way (Kurtic et al., NeurIPS
2023).

Errors of several groups do not simply add up, so several versions of the losses choose (`loss_versions.py`); the models
are solved and evaluated.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from netadapt_onnx.search.allowed_counts import ChannelChoices, used_widths
from netadapt_onnx.search.joint_iteration import best_first
from netadapt_onnx.search.loss_versions import versions_after
from netadapt_onnx.search.netadapt import Problem, Step, amounts_after, corrected, furthest, met, widths_after
from netadapt_onnx.search.proposals import TOGETHER, Proposal, joint_proposal
from netadapt_onnx.search.width_program import Losses, solve

# A group is probed where its curve comes nearest to this error: large enough to be seen at the outputs, small enough to
# be in the range that matters.
PROBE_ERROR = 0.1
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
    program = _Program(problem, steps, evaluate)
    versions, draws = versions_after(losses, steps[problem.since :], draws)
    versions.compete(draws, lambda names: program.evaluated({name: versions[name] for name in names}))
    return program.competition


class _Program:
    """Chooses widths for versions of the losses, and has them evaluated; widths that it has seen are left out."""

    def __init__(self, problem: Problem, steps: Sequence[Step], evaluate: Evaluate) -> None:
        self._problem = problem
        self._evaluate = evaluate
        self._unpruned = widths_after(problem, ())
        self._predict = corrected(problem, (steps[-1].accepted if steps else problem.start).correction)
        self._seen = [self._unpruned, *(used_widths(problem.choices, step.widths) for step in steps[problem.since :])]
        self.competition = Competition((), ())

    def evaluated(self, versions: Mapping[str, Losses]) -> dict[str, float | None]:
        """By the name of a version, the accuracy of its widths; those that were seen before are left out."""
        problem, before = self._problem, self.competition
        proposals = list(before.proposals)
        for name, losses in versions.items():
            widths = solve(problem.choices, self._unpruned, losses, self._predict, problem.limits, MOST_OPTIONS)
            used = used_widths(problem.choices, widths)
            if used not in self._seen:
                self._seen.append(used)
                proposals.append(joint_proposal(name, widths, self._predict(widths)))
        fresh = range(len(before.proposals), len(proposals))
        accuracies = self._evaluate(proposals, fresh) if fresh else ()
        self.competition = Competition(tuple(proposals), (*before.accuracies, *accuracies))
        return {proposals[n].method or "": accuracy for n, accuracy in zip(fresh, accuracies, strict=True)}
