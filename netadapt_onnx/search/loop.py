"""The loop of a search: proposals are evaluated, the winner is accepted, and the next iteration starts from it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Protocol

import numpy as np

from netadapt_onnx.search import knapsack
from netadapt_onnx.search.netadapt import Accepted, Problem, Step, propose
from netadapt_onnx.search.proposals import Proposal

# Importance of every channel of each group that can still be cut, least first, for the current model.
Importances = Callable[[], Mapping[str, np.ndarray]]


class Evaluation(Protocol):
    """What evaluates proposals and makes the winner the current model."""

    def rank(self, iteration: int, proposals: Sequence[Proposal]) -> Sequence[float | None]:
        """The held-out accuracy of each proposal after a short adaptation; None for one that failed."""
        ...

    def refine(self, iteration: int, finalists: Sequence[Proposal]) -> Sequence[float | None]:
        """The held-out accuracy of each finalist after a short training; None for one that failed."""
        ...

    def accept(self, iteration: int, proposal: Proposal) -> Accepted:
        """Make a proposal the current model, and evaluate it."""
        ...


def next_step(
    problem: Problem, evaluation: Evaluation, steps: Sequence[Step], importances: Importances | None = None
) -> Step | None:
    """Do the next iteration of a search.

    Args:
        problem: What the search is to solve.
        evaluation: What evaluates the proposals.
        steps: The steps accepted so far.
        importances: Scores the channels of the current model, for the knapsack strategy; None: NetAdapt's loop alone.

    Returns:
        The accepted step; None where the search has come to its end.

    Raises:
        NetadaptError: All proposals of the iteration failed.
    """
    if importances is not None and knapsack.has_rounds(problem, steps):
        joint = knapsack.propose(problem, steps, importances())
        if joint is not None:
            return joint.step(evaluation.accept(joint.number, joint.proposal))
    iteration = propose(problem, steps)
    if iteration is None:
        return None
    proposals = iteration.proposals
    ranking = iteration.ranking(evaluation.rank(iteration.number, proposals))
    if problem.finalists:
        finalists = ranking.order()[: problem.finalists]
        accuracies = evaluation.refine(iteration.number, [proposals[number] for number in finalists])
        ranking = ranking.with_finetuned(finalists, accuracies)
    winner = ranking.order()[0]
    return ranking.step(winner, evaluation.accept(iteration.number, proposals[winner]))


def search(
    problem: Problem, evaluation: Evaluation, history: Sequence[Step] = (), importances: Importances | None = None
) -> Iterator[Step]:
    """The steps of a search from the end of `history`, each once it is accepted."""
    steps = list(history)
    while (step := next_step(problem, evaluation, steps, importances)) is not None:
        steps.append(step)
        yield step
