"""Would lazy ranking have chosen the winners of a search that evaluated every proposal? Answered from its history.

The search's own accuracies answer for the proposals that lazy ranking would have evaluated; what it would not have is
also unknown to the iterations after it. Nothing is evaluated anew.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from netadapt_onnx.search.allowed_counts import ChannelChoices
from netadapt_onnx.search.lazy_ranking import rank_lazily
from netadapt_onnx.search.netadapt import (
    TARGET_FRACTION,
    TRAINED,
    Accepted,
    Iteration,
    Problem,
    Select,
    Step,
    met,
)
from netadapt_onnx.search.proposals import TOGETHER, Amounts, Goal, Proposal, Widths
from netadapt_onnx.search.schedule import Schedule
from netadapt_onnx.search.width_program import Losses


@dataclass(frozen=True)
class RecordedSearch:
    """A search whose iterations evaluated all of their proposals.

    Attributes:
        steps: Its history.
        start: The evaluation of the original.
        resources: The original's resources, in base units.
        limits: The budgets, in base units.
        errors: By group, the error when 0, 1, 2 ... of the original's channels are gone.
        select: What its winners had best.
    """

    steps: Sequence[Step]
    start: Accepted
    resources: Amounts
    limits: Amounts
    errors: Losses
    select: Select = "ratio"

    @property
    def widths(self) -> Widths:
        """The original's channels by group."""
        first = self.steps[0]
        if first.group == TOGETHER:
            raise ValueError("the search began with a step of all groups at once")
        return {**first.widths, first.group: first.channels[0]}


@dataclass(frozen=True)
class Compared:
    """An iteration of both: its number, the winners, and how many of the proposals lazy ranking evaluates."""

    iteration: int
    winner: str
    lazy_winner: str
    proposals: int
    evaluated: int

    @property
    def same(self) -> bool:
        """Whether the winner is the same."""
        return self.winner == self.lazy_winner


def replay(search: RecordedSearch) -> list[Compared]:
    """Each iteration of NetAdapt's loop that lowers a resource, ranked lazily."""
    choices = [ChannelChoices(group, channels, (), (channels,)) for group, channels in search.widths.items()]
    problem = Problem(
        choices, lambda widths: search.resources, search.limits, search.start, Schedule(1.0, 1.0), len(search.steps)
    )
    compared: list[Compared] = []
    replayed: list[Step] = []  # with what lazy ranking would have evaluated
    before, widths = search.resources, search.widths
    for step in search.steps:
        if step.group in (TOGETHER, TRAINED) or met(before, search.limits):
            replayed.append(step)
        else:
            accepted = replayed[-1].accepted if replayed else search.start
            iteration = _iteration(search, step, widths, before, accepted.ranked or 0.0)
            recorded = partial(_recorded, step)
            ranking = rank_lazily(problem, iteration, replayed, search.errors, recorded)
            winner = ranking.evaluated[ranking.order()[0]].group
            compared.append(Compared(step.iteration, step.group, winner, len(step.tried), len(ranking.evaluated)))
            replayed.append(replace(step, tried=ranking.evaluated))
        before, widths = step.resources, step.widths
    return compared


def _recorded(step: Step, numbers: Sequence[int]) -> list[float | None]:
    return [step.tried[number].accuracy for number in numbers]


def _iteration(search: RecordedSearch, step: Step, widths: Widths, before: Amounts, ranked: float) -> Iteration:
    """The iteration that a step has come from."""
    goal = Goal(step.driver, step.target, before, search.limits, TARGET_FRACTION * search.limits[step.driver])
    proposals = [Proposal(p.group, p.channels, {**widths, p.group: p.channels}, p.resources) for p in step.tried]
    return Iteration(step.iteration, goal, proposals, widths, ranked, search.select, step.skipped)


def lazy_row(compared: Sequence[Compared]) -> dict[str, Any]:
    """How often the winner was the same, and what share of the proposals was evaluated."""
    return {
        "iterations": len(compared),
        "same": sum(one.same for one in compared),
        "proposals": sum(one.proposals for one in compared),
        "evaluated": sum(one.evaluated for one in compared),
        "differences": [[one.iteration, one.winner, one.lazy_winner] for one in compared if not one.same],
    }


def recorded_search(run: Path, model: Path, data: Path, budget: str, seed: int) -> RecordedSearch:
    """What a run directory holds of a search for a share of the multiply-accumulates, with the model's error curves."""
    from threadpoolctl import threadpool_limits

    from netadapt_onnx.data.load_dataset import load_dataset
    from netadapt_onnx.graph.cost import cost
    from netadapt_onnx.graph.fold_shapes import fold
    from netadapt_onnx.graph.model import load
    from netadapt_onnx.search.channel_selection import BaseModel
    from netadapt_onnx.search.evaluator import DataEvaluator
    from netadapt_onnx.search.run_directory.journal import read_history, read_journal
    from netadapt_onnx.search.worker import WorkerContext
    from netadapt_onnx.surgery.trace import trace

    resource, _, share = budget.partition("=")
    folded = fold(load(model).proto)
    unpruned = float(cost(folded.proto, folded.shapes).macs)
    dataset = load_dataset(folded, data)
    original, evaluator = BaseModel(trace(folded), {}), DataEvaluator(dataset, folded.proto, seed)
    context = WorkerContext(original, evaluator, dataset, seed=seed, trains=False, shapes={}, batch_size=1)
    accuracies = read_journal(run).values["accuracy/original"]
    with threadpool_limits(1, "blas"):  # as in a run: with more threads the last bits differ
        errors = context.error_curves()
    return RecordedSearch(
        read_history(run, Step),
        Accepted(accuracies["held_out"], accuracies["ranked"], {}),
        {resource: unpruned},
        {resource: float(share.removesuffix("x")) * unpruned},
        errors,
    )
