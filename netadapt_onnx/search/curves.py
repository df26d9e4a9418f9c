"""The curves strategy as pure functions: widths of all groups at once for any target, from each group's error curve.

Removing channels from one group adds an error to the layers that read it; structured OBS gives that error at every
count (`surgery/criteria/obs.py`). One probe of each group tells how much of it reaches the network's outputs, and an
integer program over the curves and the predicted resources chooses the widths: ZipLM's way (Kurtic et al., NeurIPS
2023), with probes of the network in the place of SPDY's search for coefficients (Frantar & Alistarh, ICML 2022).

Errors of several groups do not simply add up. The sum is right where they are small; where many layers have lost much,
the last ones hardly matter any more. So a few powers of the losses are tried, and the models are evaluated.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from netadapt_onnx.search.channel_choices import ChannelChoices
from netadapt_onnx.search.joint_iteration import JointIteration, joint_iteration
from netadapt_onnx.search.netadapt import Problem, Step, amounts_after, corrected, furthest, met, widths_after
from netadapt_onnx.search.proposals import TOGETHER, Proposal, joint_proposal
from netadapt_onnx.search.width_program import Losses, solve

# A group is probed where its curve comes nearest to this error: large enough to be seen at the outputs, small enough to
# be in the range that matters.
PROBE_ERROR = 0.1
# Losses to these powers are tried: below 1 they spare many groups at the cost of a few, above 1 they spread the cut.
POWERS = (1.0, 0.5, 2.0)
# Counts of one group that the program chooses among: there is but one round.
MOST_OPTIONS = 64
# A measurement that differs from the prediction costs one more round.
MOST_ROUNDS = 4


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
    """Whether the widths of a target are to be chosen: first, and again where a measurement says otherwise."""
    current, rounds = amounts_after(problem, steps), sum(step.group == TOGETHER for step in steps[problem.since :])
    driver = furthest(problem.limits, current)
    converged = met(current, problem.limits) and current[driver] >= problem.converged_amount(driver)
    return not converged and rounds < MOST_ROUNDS and len(steps) < problem.max_iterations


def propose(problem: Problem, steps: Sequence[Step], losses: Losses) -> JointIteration | None:
    """The widths that lose least within the limits of a target, one proposal for each power of the losses.

    They are chosen from the original's widths: what an earlier target has cut may be wider again.

    Args:
        problem: What the search is to solve.
        steps: The steps accepted so far.
        losses: By group, what the outputs lose when 0, 1, 2 ... of its channels are gone.

    Returns:
        The iteration; None if there are no widths that were not tried before, or if those of the last round are chosen
        again: it has told nothing new, and the others were worse than they.
    """
    earlier = [dict(step.widths) for step in steps[problem.since :]]
    chosen = proposals(problem, steps, losses)
    if earlier and any(proposal.widths == earlier[-1] for proposal in chosen):
        return None
    whole = widths_after(problem, ())
    fresh = [proposal for proposal in chosen if proposal.widths not in (whole, *earlier)]
    return joint_iteration(problem, steps, fresh) if fresh else None


def proposals(
    problem: Problem, steps: Sequence[Step], losses: Losses, powers: Sequence[float] = POWERS
) -> list[Proposal]:
    """The widths that lose least within the limits, by each power of the losses."""
    whole = widths_after(problem, ())
    before = steps[-1].accepted if steps else problem.start
    predict = corrected(problem, before.correction)
    chosen = []
    for power in powers:
        scaled = {name: loss**power for name, loss in losses.items()}
        widths = solve(problem.choices, whole, scaled, predict, problem.limits, MOST_OPTIONS)
        method = "curves" if power == 1.0 else f"curves^{power:g}"
        chosen.append(joint_proposal(method, widths, predict(widths)))
    return chosen
