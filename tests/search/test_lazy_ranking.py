"""Lazy ranking: what an iteration evaluates, and that the winner is that of the full ranking where losses are tame."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from netadapt_onnx.search.lazy_ranking import BATCH, loss_rates, rank_lazily
from netadapt_onnx.search.methods import Methods
from netadapt_onnx.search.netadapt import EvaluatedProposal, propose
from search_problems import SimulatedProblem, problem, search

GROUPS = {f"g{number:02d}": 32 for number in range(12)}


def curves(seed: int) -> dict[str, np.ndarray]:
    """Errors that rise faster and faster, at a different rate in every group."""
    rng = np.random.default_rng(seed)
    return {name: rng.uniform(0.1, 1.0) * (np.arange(n + 1) / n) ** 2 for name, n in GROUPS.items()}


def simulated(seed: int, noise: float = 0.0) -> tuple[SimulatedProblem, dict[str, np.ndarray], list[int]]:
    """A search whose accuracy is what the curves say, times a weight of each group; and how much it evaluates."""
    errors, rng = curves(seed), np.random.default_rng(seed + 1)
    weights = {name: rng.uniform(0.5, 2.0) for name in GROUPS}
    calls: list[int] = []

    def accuracy(widths: Mapping[str, int]) -> float:
        lost = sum(weights[g] * float(errors[g][GROUPS[g] - n]) for g, n in widths.items())
        jitter = noise * np.random.default_rng(sum(widths.values())).normal()
        return 1.0 - 0.02 * lost + jitter

    one = problem(GROUPS, lambda w: {"macs": float(sum(w.values()))}, {"macs": 200.0}, accuracy, step=2)
    evaluate = one.rank

    def rank(iteration: int, proposals: Any, numbers: Sequence[int]) -> Sequence[float | None]:
        calls.append(len(numbers))
        return evaluate(iteration, proposals, numbers)

    return replace(one, rank=rank), errors, calls


@pytest.mark.parametrize("seed", range(5))
def test_the_same_winners_as_the_full_ranking_for_a_fraction_of_the_evaluations(seed: int) -> None:
    one, errors, calls = simulated(seed)
    full = list(search(one))
    evaluated = sum(calls)
    calls.clear()
    lazy = list(search(one, methods=Methods(errors=lambda: errors)))
    assert [step.group for step in lazy] == [step.group for step in full]
    assert lazy[-1].widths == full[-1].widths
    assert sum(calls) < 0.7 * evaluated


def test_the_first_iteration_evaluates_every_group() -> None:
    one, errors, _ = simulated(0)
    first = next(search(one, methods=Methods(errors=lambda: errors)))
    assert {entry.group for entry in first.tried} == set(GROUPS)


def test_what_was_not_evaluated_is_not_in_the_history_as_tried() -> None:
    one, errors, _ = simulated(0)
    steps = list(search(one, methods=Methods(errors=lambda: errors)))
    later = steps[3]
    assert BATCH <= len(later.tried) < len(GROUPS)
    assert {entry.group for entry in later.tried}.isdisjoint(later.skipped)
    assert {entry.group for entry in later.tried} | set(later.skipped) == set(GROUPS)


def test_a_group_that_was_predicted_to_win_and_does_not_makes_the_next_ones_be_evaluated() -> None:
    one, errors, _ = simulated(0)
    steps = list(search(one))[:3]
    iteration = propose(one, steps)
    assert iteration is not None
    disappointing = rank_lazily(one, iteration, steps, errors, lambda numbers: [0.0] * len(numbers))
    assert len(disappointing.evaluated) == len(iteration.proposals)


def test_a_rate_is_the_loss_per_error_and_never_negative() -> None:
    one, errors, _ = simulated(0)
    step = next(search(one))
    gained = [EvaluatedProposal(e.group, e.channels, e.resources, 1.5) for e in step.tried]
    assert set(loss_rates(one, [replace(step, tried=tuple(gained))], errors).values()) == {0.0}
    rates = loss_rates(one, [step], errors)
    for entry in step.tried:
        error = float(errors[entry.group][GROUPS[entry.group] - entry.channels])
        assert entry.accuracy is not None and one.start.ranked is not None
        assert rates[entry.group] * error == pytest.approx(one.start.ranked - entry.accuracy, rel=1e-9)
