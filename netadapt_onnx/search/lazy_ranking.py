"""Which proposals of an iteration are worth an evaluation: lazy greedy selection (Minoux, 1978).

What a group lost per error of its curve when it was last evaluated predicts what it will lose next. Proposals are
evaluated in the order of that prediction, until none that is left is predicted to be better than the best one so far. A
group that has not been evaluated yet is evaluated at once. With submodular losses the winner would be that of the full
ranking for certain; how often it is here, `benchmarks/search_speed.py --lazy` counts on recorded runs.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from netadapt_onnx.search.netadapt import EvaluatedProposal, Iteration, Problem, Ranking, Step, order
from netadapt_onnx.search.proposals import TOGETHER, Proposal, Widths
from netadapt_onnx.search.width_program import Losses

# So many proposals are evaluated at once, whoever evaluates them: workers must not change the result.
BATCH = 4
# An error so small counts as this one, so that rates stay finite.
LEAST_ERROR = 1e-6
# Evaluates some proposals of an iteration, by their numbers.
Evaluate = Callable[[Sequence[int]], Sequence[float | None]]


def rank_lazily(
    problem: Problem,
    iteration: Iteration,
    steps: Sequence[Step],
    errors: Losses,
    evaluate: Evaluate,
    losses: Losses | None = None,
) -> Ranking:
    """Evaluate the proposals of an iteration that could win.

    Args:
        problem: What the search is to solve.
        iteration: The iteration.
        steps: The steps accepted so far, which hold what earlier iterations have evaluated.
        errors: By group, the error when 0, 1, 2 ... of the original's channels are gone; a branch has none.
        evaluate: Evaluates proposals.
        losses: By group, what the outputs lose when so many are gone, where the groups were probed.

    Returns:
        The ranking of those that were evaluated.
    """
    rates = loss_rates(problem, steps, errors, losses)
    predicted = [_predicted(iteration, proposal, rates, errors) for proposal in iteration.proposals]
    waiting = order(predicted, iteration.goal, iteration.ranking_accuracy, iteration.select) if rates else []
    batch = [number for number, proposal in enumerate(predicted) if proposal.accuracy is None]
    if not batch:
        batch, waiting = waiting[:BATCH], waiting[BATCH:]
    accuracies: dict[int, float | None] = {}
    while True:
        accuracies |= zip(batch, evaluate(batch), strict=True)
        numbers = sorted(accuracies)
        ranking = iteration.part(numbers).ranking([accuracies[number] for number in numbers])
        if not waiting or not _could_win(predicted[waiting[0]], ranking):
            return ranking
        batch, waiting = waiting[:BATCH], waiting[BATCH:]


def loss_rates(
    problem: Problem, steps: Sequence[Step], errors: Losses, losses: Losses | None = None
) -> dict[str, float]:
    """By group, the accuracy lost per error of its curve in the last iteration that evaluated it; never negative.

    Where all groups were cut at once, probes say in what proportion, and the accuracy of the model how much in all.
    """
    rates: dict[str, float] = {}
    before, widths = problem.start, {choice.group: choice.channels for choice in problem.choices}
    original = widths
    for step in steps:
        if step.group == TOGETHER and losses is not None and None not in (problem.start.ranked, step.accepted.ranked):
            lost = (problem.start.ranked or 0.0) - (step.accepted.ranked or 0.0)
            rates |= _probed_rates(original, step.widths, errors, losses, max(lost, 0.0))
        for proposal in step.tried:
            if proposal.accuracy is None or proposal.group not in widths or before.ranked is None:
                continue
            more = _error(errors, proposal.group, widths[proposal.group], proposal.channels)
            if more > 0:
                rates[proposal.group] = max(before.ranked - proposal.accuracy, 0.0) / max(more, LEAST_ERROR)
        before, widths = step.accepted, dict(step.widths)
    return rates


def _probed_rates(original: Widths, widths: Widths, errors: Losses, losses: Losses, lost: float) -> dict[str, float]:
    """The accuracy lost per error of every group that was probed, if their losses together cost `lost`."""
    together = sum(float(losses[name][original[name] - n]) for name, n in widths.items() if name in losses)
    worth = lost / together if together > 0 else 0.0
    return {
        name: worth * float(curve[-1]) / max(_error(errors, name, original[name], 0), LEAST_ERROR)
        for name, curve in losses.items()
        if name in original
    }


def _predicted(
    iteration: Iteration, proposal: Proposal, rates: Mapping[str, float], errors: Losses
) -> EvaluatedProposal:
    """A proposal with the accuracy that it is predicted to leave; None for a group that was not evaluated yet."""
    accuracy = None
    if proposal.group in rates:
        now = iteration.widths[proposal.group]
        more = max(_error(errors, proposal.group, now, proposal.channels), LEAST_ERROR)
        accuracy = iteration.ranking_accuracy - rates[proposal.group] * more
    return EvaluatedProposal(proposal.group, proposal.channels, proposal.resources, accuracy)


def _could_win(candidate: EvaluatedProposal, ranking: Ranking) -> bool:
    """Whether a proposal is predicted to be better than all that were evaluated."""
    iteration, evaluated = ranking.iteration, ranking.evaluated
    contest = (*evaluated, candidate)
    return order(contest, iteration.goal, iteration.ranking_accuracy, iteration.select)[0] == len(evaluated)


def _error(errors: Losses, group: str, channels: int, fewer: int) -> float:
    """The error that a group adds when it goes from `channels` down to `fewer`; a branch that goes adds 1."""
    curve = errors.get(group)
    if curve is None:
        return float(channels - fewer)
    last = len(curve) - 1
    return float(curve[last - fewer] - curve[last - channels])
