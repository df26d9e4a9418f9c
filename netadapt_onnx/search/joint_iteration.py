"""Iterations that change all groups at once: widths chosen by several methods, of which the best become the model's."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from netadapt_onnx.search.allowed_counts import used_widths
from netadapt_onnx.search.netadapt import (
    Accepted,
    EvaluatedProposal,
    Problem,
    Step,
    amounts_after,
    furthest,
    widths_after,
)
from netadapt_onnx.search.proposals import TOGETHER, Proposal, Widths


@dataclass(frozen=True)
class JointIteration:
    """The joint proposals of one iteration.

    Attributes:
        number: The iteration, from 1.
        before: The widths of the current model.
        driver: The resource that is to be lowered.
        target: What it may be after the iteration, in its base unit.
        proposals: One for each method, all of different widths.
        group: What the history calls that which changes.
    """

    number: int
    before: Widths
    driver: str
    target: float
    proposals: tuple[Proposal, ...]
    group: str = TOGETHER

    def evaluated(self, number: int, accuracy: float | None, finetuned: float | None = None) -> EvaluatedProposal:
        """A proposal with its accuracy once it was solved, and that after its last short training."""
        proposal = self.proposals[number]
        return EvaluatedProposal(proposal.label, proposal.channels, proposal.resources, accuracy, finetuned)

    def step(self, winner: int, accepted: Accepted, evaluated: Iterable[EvaluatedProposal] = ()) -> Step:
        """The step that makes a proposal the current model.

        Args:
            winner: The number of the proposal.
            accepted: Its evaluation.
            evaluated: All proposals that competed.
        """
        proposal = self.proposals[winner]
        return Step(
            iteration=self.number,
            group=self.group,
            channels=(sum(self.before.values()), proposal.channels),
            widths=proposal.widths,
            driver=self.driver,
            target=self.target,
            resources=proposal.resources,
            accepted=accepted,
            tried=tuple(evaluated),
            skipped=tuple(name for name in self.before if self.before[name] == proposal.widths[name]),
        )


def joint_iteration(
    problem: Problem, steps: Sequence[Step], proposals: Iterable[Proposal], group: str = TOGETHER
) -> JointIteration:
    """The next iteration, with joint proposals that are to reach the budget; of equal models the first stays."""
    driver = furthest(problem.limits, amounts_after(problem, steps))
    by_widths: dict[tuple[int, ...], Proposal] = {}
    for proposal in proposals:
        by_widths.setdefault(tuple(used_widths(problem.choices, proposal.widths).values()), proposal)
    return JointIteration(
        len(steps) + 1,
        widths_after(problem, steps),
        driver,
        problem.limits[driver],
        tuple(by_widths.values()),
        group,
    )


def finite_accuracies(accuracies: Mapping[int, float | None]) -> dict[int, float]:
    """The accuracies of proposals, by number, without those that failed."""
    return {n: accuracy for n, accuracy in accuracies.items() if accuracy is not None and math.isfinite(accuracy)}


def best_first(accuracies: Mapping[int, float | None]) -> list[int]:
    """The numbers of the proposals that did not fail, the most accurate first; ties go to the earlier one."""
    finite = finite_accuracies(accuracies)
    return sorted(finite, key=lambda number: (-finite[number], number))
