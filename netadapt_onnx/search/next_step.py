"""One iteration of a search: which method's turn it is, what it proposes, and which proposal is accepted."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Protocol

from netadapt_onnx.search import curves, first_jump, knapsack, portfolio
from netadapt_onnx.search.joint_iteration import joint_iteration
from netadapt_onnx.search.lazy_ranking import rank_lazily
from netadapt_onnx.search.methods import Methods, PortfolioPlan
from netadapt_onnx.search.netadapt import TRAINED, Accepted, Iteration, Problem, Ranking, Step, propose
from netadapt_onnx.search.proposals import Proposal
from netadapt_onnx.search.width_program import Losses

# The folders of an iteration for the candidates of a portfolio, and for those of the curves.
SOLVED, CURVES = "solved", "curves"


class Evaluates(Protocol):
    """Makes proposals into models; `Candidates` of a run, or the functions of a test."""

    def rank(self, iteration: int, proposals: Sequence[Proposal], numbers: Sequence[int]) -> Sequence[float | None]:
        """The accuracy of these proposals of an iteration after their short adaptation; None for one that failed."""
        ...

    def refine(self, iteration: int, proposals: Sequence[Proposal], numbers: Sequence[int]) -> Sequence[float | None]:
        """The accuracy of finalists after their short training, or with all of their layers solved in order."""
        ...

    def solve_jointly(
        self, iteration: int, name: str, proposals: Sequence[Proposal], numbers: Sequence[int]
    ) -> Sequence[float | None]:
        """The accuracy of joint proposals with all of their layers solved in order; `name` is that of their folder."""
        ...

    def train_jointly(
        self, iteration: int, proposals: Sequence[Proposal], numbers: Sequence[int], steps: int
    ) -> Sequence[float | None]:
        """The same after so many steps of training."""
        ...

    def accept(self, iteration: int, proposal: Proposal) -> Accepted:
        """Make a proposal the current model, and evaluate it."""
        ...


def next_step(
    problem: Problem, candidates: Evaluates, steps: Sequence[Step], methods: Methods | None = None
) -> Step | None:
    """Do the next iteration of a search.

    Args:
        problem: What the search is to solve.
        candidates: What evaluates the proposals, and makes the winner the current model.
        steps: The steps accepted so far.
        methods: What takes part besides NetAdapt's loop.

    Returns:
        The accepted step; None where the search has come to its end.

    Raises:
        NetadaptError: All proposals of the iteration failed.
    """
    methods = methods or Methods()
    joint = _joint_step(problem, candidates, steps, methods)
    if joint is not None:
        return joint
    iteration = propose(problem, steps)
    if iteration is not None and not (methods.curves is not None and iteration.is_widening):
        return _netadapt_step(problem, candidates, steps, iteration, methods)
    if methods.portfolio is not None and portfolio.is_due(problem, steps):
        return _portfolio_step(problem, candidates, steps, methods.portfolio, methods.draws)
    return None


def _joint_step(problem: Problem, candidates: Evaluates, steps: Sequence[Step], methods: Methods) -> Step | None:
    """The step of a strategy that changes all groups at once; None if it has nothing more to propose."""
    if methods.curves is not None and curves.is_due(problem, steps):
        return _curves_step(problem, candidates, steps, methods.curves(), methods.draws)
    if methods.start is not None and first_jump.is_due(problem, steps):
        jump = first_jump.jump_problem(problem, steps, methods.start_share)
        return _curves_step(jump, candidates, steps, methods.start(), methods.draws)
    if methods.portfolio is not None and portfolio.has_missed(problem, steps):
        losses = methods.portfolio.losses
        if losses is not None and curves.has_rounds(problem, steps):
            return _curves_step(problem, candidates, steps, losses(), methods.draws)
    if methods.knapsack is not None and knapsack.has_rounds(problem, steps):
        joint = knapsack.propose(problem, steps, methods.knapsack())
        return None if joint is None else joint.step(0, candidates.accept(joint.number, joint.proposals[0]))
    return None


def _curves_step(
    problem: Problem, candidates: Evaluates, steps: Sequence[Step], losses: Losses, draws: int
) -> Step | None:
    """The step to the best widths by error curves; None if there are none that were not had before, or no better ones.

    Where the current model is within the limits already, only room was left, that wider layers might have used.
    """
    number = len(steps) + 1
    competition = curves.compete(problem, steps, losses, partial(candidates.solve_jointly, number, CURVES), draws)
    best = competition.best()
    if not competition.proposals or (best is not None and not curves.is_better(problem, steps, competition)):
        return None
    joint = joint_iteration(problem, steps, competition.proposals)
    evaluated = [joint.evaluated(n, accuracy) for n, accuracy in enumerate(competition.accuracies)]
    winner = best or 0
    return joint.step(winner, candidates.accept(number, joint.proposals[winner]), evaluated)


def _netadapt_step(
    problem: Problem, candidates: Evaluates, steps: Sequence[Step], iteration: Iteration, methods: Methods
) -> Step:
    """The step to the best proposal of NetAdapt's loop."""
    ranking = _ranking(problem, candidates, steps, iteration, methods)
    proposals = ranking.iteration.proposals
    if problem.finalists:
        finalists = ranking.order()[: problem.finalists]
        accuracies = candidates.refine(iteration.number, proposals, finalists)
        ranking = ranking.with_finetuned(finalists, accuracies)
    winner = ranking.order()[0]
    return ranking.step(winner, candidates.accept(iteration.number, proposals[winner]))


def _ranking(
    problem: Problem, candidates: Evaluates, steps: Sequence[Step], iteration: Iteration, methods: Methods
) -> Ranking:
    rank = partial(candidates.rank, iteration.number, iteration.proposals)
    if methods.errors is None or iteration.is_widening:
        return iteration.ranking(rank(range(len(iteration.proposals))))
    losses = None if methods.start is None else methods.start()
    return rank_lazily(problem, iteration, steps, methods.errors(), rank, losses)


def _portfolio_step(
    problem: Problem, candidates: Evaluates, steps: Sequence[Step], plan: PortfolioPlan, draws: int
) -> Step | None:
    """The step to the best of the widths of several methods; None if there is nothing to compete with."""
    number = len(steps) + 1
    others: list[Proposal] = []
    accuracies: dict[str, float | None] = {}
    trained = any(step.group == TRAINED for step in steps)  # for an earlier target
    if plan.own_is_solved and not trained and steps[-1].accepted.ranked is not None:
        accuracies[plan.strategy] = steps[-1].accepted.ranked
    if plan.losses is not None:
        solve = partial(candidates.solve_jointly, number, CURVES)
        competition = curves.compete(problem, steps, plan.losses(), solve, draws)
        for best in competition.order()[: portfolio.MOST_CURVES]:
            others.append(competition.proposals[best])
            accuracies[competition.proposals[best].method or ""] = competition.accuracies[best]
    if plan.importances is not None:
        others += knapsack.whole_way(problem, steps, plan.importances())
    joint = portfolio.propose(problem, steps, plan, others)
    if joint is None:
        return None
    solve = partial(candidates.solve_jointly, number, SOLVED, joint.proposals)
    train = partial(candidates.train_jointly, number, joint.proposals)
    winner, evaluated = portfolio.compete(joint, solve, train, plan.train_steps, accuracies)
    return joint.step(winner, candidates.accept(number, joint.proposals[winner]), evaluated)
