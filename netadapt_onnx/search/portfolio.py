"""The portfolio at the end of a search: its widths compete with those of other methods.

Which widths are best shows only after training: reconstruction favours wide layers, training uses what narrow networks
are left with. So the candidates are solved, then trained for a short time, the better half for longer (successive
halving: Jamieson & Talwalkar, AISTATS 2016), and the last one left is the result. Uniform widths are always among them,
so that no search ends behind them by more than the noise of that comparison.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

from netadapt_onnx.search.joint_iteration import JointIteration, best_first, finite_accuracies, joint_iteration
from netadapt_onnx.search.methods import PortfolioPlan
from netadapt_onnx.search.netadapt import (
    EvaluatedProposal,
    Problem,
    Step,
    amounts_after,
    corrected,
    met,
    widths_after,
)
from netadapt_onnx.search.proposals import Proposal, joint_proposal
from netadapt_onnx.search.uniform import largest_uniform
from netadapt_onnx.search.width_program import Predict

# The `group` of the step in which the widths of several methods compete.
PORTFOLIO = "the portfolio"

# So many of the solved candidates are trained: the best ones, and uniform widths in any case.
MOST_TRAINED = 4
# So many of the widths that the curves have chosen take part, the best ones.
MOST_CURVES = 3
UNIFORM = "uniform"

# Evaluates proposals of an iteration by their numbers: their accuracies, None for one that failed.
Evaluate = Callable[[Sequence[int]], Sequence[float | None]]
# The same after training for so many steps.
Train = Callable[[Sequence[int], int], Sequence[float | None]]


def is_due(problem: Problem, steps: Sequence[Step]) -> bool:
    """Whether the search of a target has ended within its limits, and nothing has competed with it yet."""
    own = steps[problem.since :]
    ended = bool(own) and met(amounts_after(problem, steps), problem.limits) and len(steps) < problem.max_iterations
    return ended and not any(step.group == PORTFOLIO for step in own)


def has_missed(problem: Problem, steps: Sequence[Step]) -> bool:
    """Whether the winner of a portfolio was measured to miss the budget, and no widths were within it since."""
    own = steps[problem.since :]
    return any(step.group == PORTFOLIO for step in own) and not met(amounts_after(problem, steps), problem.limits)


def propose(
    problem: Problem, steps: Sequence[Step], plan: PortfolioPlan, others: Sequence[Proposal]
) -> JointIteration | None:
    """The candidates: the search's own widths first, those of other methods that meet the budget, and uniform ones.

    Args:
        problem: What the search is to solve.
        steps: The steps accepted so far.
        plan: What competes.
        others: Joint proposals of other methods.

    Returns:
        The iteration; None where no other widths meet the budget.
    """
    predict = corrected(problem, steps[-1].accepted.correction)
    own = widths_after(problem, steps)
    candidates = [joint_proposal(plan.strategy, own, predict(own)), *others, *_uniform(problem, plan, predict)]
    fitting = [candidate for candidate in candidates if met(candidate.resources, problem.limits)]
    iteration = joint_iteration(problem, steps, fitting, PORTFOLIO)
    return iteration if len(iteration.proposals) > 1 else None


def compete(
    iteration: JointIteration,
    solve: Evaluate,
    train: Train | None = None,
    train_steps: int = 0,
    earlier: Mapping[str, float | None] | None = None,
) -> tuple[int, list[EvaluatedProposal]]:
    """Successive halving: all candidates are solved and trained, the better half for twice as long, until one is left.

    A candidate is as good as the better of its solved and its trained model: no training at the end makes it worse, and
    among models that a training has only harmed it would be the harm that decides.

    Args:
        iteration: The candidates.
        solve: Evaluates candidates once their layers are solved.
        train: Evaluates candidates after a short training; None: the solved models decide.
        train_steps: The steps of the first round of training.
        earlier: By method, the accuracies of candidates that have been solved already.

    Returns:
        The number of the winner, and all candidates with their last accuracies. Ties go to the search's own widths.
    """
    numbers = list(range(len(iteration.proposals)))
    before = earlier or {}
    solved = [before.get(proposal.method or "") for proposal in iteration.proposals]
    unknown = [number for number in numbers if iteration.proposals[number].method not in before]
    for number, accuracy in zip(unknown, solve(unknown) if unknown else (), strict=True):
        solved[number] = accuracy
    scores = finite_accuracies(dict(zip(numbers, solved, strict=True)))
    finetuned: dict[int, float | None] = {}
    contenders = best_first(scores)
    uniform = [number for number in contenders[MOST_TRAINED:] if iteration.proposals[number].method == UNIFORM]
    contenders = [*contenders[: MOST_TRAINED - len(uniform)], *uniform]
    while train is not None and train_steps and len(contenders) > 1:
        accuracies = dict(zip(contenders, train(contenders, train_steps), strict=True))
        finetuned |= accuracies
        trained = {number: max(accuracy, scores[number]) for number, accuracy in finite_accuracies(accuracies).items()}
        ranked = best_first(trained) or contenders
        contenders = ranked[: math.ceil(len(contenders) / 2)]
        train_steps *= 2
    evaluated = [iteration.evaluated(number, solved[number], finetuned.get(number)) for number in numbers]
    return (contenders[0] if contenders else 0), evaluated


def _uniform(problem: Problem, plan: PortfolioPlan, predict: Predict) -> list[Proposal]:
    """Uniform widths; they keep all residual branches."""
    widths = largest_uniform(problem.choices, dict.fromkeys(plan.branches, 1), predict, problem.limits)
    return [] if widths is None else [joint_proposal(UNIFORM, widths, predict(widths))]
