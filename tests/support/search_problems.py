"""Searches over groups without a model: resources and accuracy are functions of the widths."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from types import SimpleNamespace
from typing import Any, cast

from netadapt_onnx.search.allowed_counts import channel_choices
from netadapt_onnx.search.methods import Importances, Methods
from netadapt_onnx.search.netadapt import Accepted, Problem, Step
from netadapt_onnx.search.next_step import next_step
from netadapt_onnx.search.proposals import Proposal
from netadapt_onnx.search.schedule import Schedule


@dataclass(frozen=True)
class SimulatedProblem(Problem):
    """A problem that evaluates its own proposals, at once."""

    rank: Callable[[int, Sequence[Proposal], Sequence[int]], Sequence[float | None]] = lambda *_: ()
    refine: Callable[[int, Sequence[Proposal], Sequence[int]], Sequence[float | None]] = lambda *_: ()
    solve_jointly: Callable[[int, str, Sequence[Proposal], Sequence[int]], Sequence[float | None]] = lambda *_: ()
    train_jointly: Callable[[int, Sequence[Proposal], Sequence[int], int], Sequence[float | None]] = lambda *_: ()
    accept: Callable[[int, Proposal], Accepted] = lambda *_: Accepted(0.0, None, {})


def search(
    problem: SimulatedProblem,
    history: Sequence[Step] = (),
    importances: Importances | None = None,
    methods: Methods | None = None,
) -> Iterator[Step]:
    """The steps of a search for a simulated problem."""
    steps, methods = list(history), methods or Methods(knapsack=importances)
    while (step := next_step(problem, cast(Any, problem), steps, methods)) is not None:
        steps.append(step)
        yield step


def problem(
    channels: Mapping[str, int],
    resources: Callable[[Mapping[str, int]], dict[str, float]],
    limits: Mapping[str, float],
    accuracy: Callable[[Mapping[str, int]], float | None],
    *,
    step: int = 1,
    structural: int = 1,
    corrections: Sequence[Mapping[str, float]] = (),
    **settings: object,
) -> SimulatedProblem:
    """A search whose proposals score `accuracy`, and whose accepted iterations measure `corrections` in turn."""
    groups = [SimpleNamespace(name=n, channels=c, step=structural, floor=structural) for n, c in channels.items()]
    queue = list(corrections)

    def accept(widths: Mapping[str, int]) -> Accepted:
        value = accuracy(widths)
        assert value is not None
        return Accepted(value, value, queue.pop(0) if queue else {})

    base = SimulatedProblem(
        choices=[channel_choices(cast(Any, g), step) for g in groups],
        resources=resources,
        limits=limits,
        start=Accepted(accuracy(channels) or 0.0, accuracy(channels) or 0.0, {}),
        rank=lambda _, proposals, numbers: [accuracy(proposals[number].widths) for number in numbers],
        solve_jointly=lambda _, __, proposals, numbers: [accuracy(proposals[number].widths) for number in numbers],
        accept=lambda _, proposal: accept(proposal.widths),
        schedule=Schedule(0.025, 0.96),
        max_iterations=100,
    )
    return replace(base, **settings)  # type: ignore[arg-type]


# Three groups in a row, and what a network of them costs.
CHAIN = {"a": 16, "b": 24, "c": 32}


def chained(widths: Mapping[str, int]) -> dict[str, float]:
    """Layers 3 -> a -> b -> c -> 10: every cost depends on widths in and out."""
    a, b, c = widths["a"], widths["b"], widths["c"]
    return {"macs": 3.0 * a + a * b + b * c + 10 * c, "memory": 1.0 * max(a + b, b + c)}
