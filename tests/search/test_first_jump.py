"""The start by curves: how far it goes, and what the loop after it knows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from netadapt_onnx.search.allowed_counts import ChannelChoices
from netadapt_onnx.search.first_jump import is_due, jump_problem
from netadapt_onnx.search.lazy_ranking import BATCH
from netadapt_onnx.search.methods import Methods, PortfolioPlan
from netadapt_onnx.search.netadapt import Accepted, amounts_after, met
from netadapt_onnx.search.portfolio import PORTFOLIO
from netadapt_onnx.search.proposals import TOGETHER
from search_problems import SimulatedProblem, problem, search

GROUPS = {f"g{number:02d}": 32 for number in range(12)}
ERRORS = {name: (0.1 + number / 12) * (np.arange(33) / 32) ** 2 for number, name in enumerate(GROUPS)}


def macs(widths: Mapping[str, int]) -> dict[str, float]:
    return {"macs": float(sum(widths.values()))}


def accuracy(widths: Mapping[str, int]) -> float:
    return 1.0 - 0.1 * sum(float(ERRORS[name][32 - n]) for name, n in widths.items())


def simulated(limit: float, **settings: Any) -> SimulatedProblem:
    return problem(GROUPS, macs, {"macs": limit}, accuracy, step=2, **settings)


SHARE = 0.75
METHODS = Methods(start=lambda: ERRORS, start_share=SHARE, errors=lambda: ERRORS)


def test_the_curves_go_most_of_the_way_and_the_loop_the_rest_group_by_group() -> None:
    one = simulated(200.0)
    steps = list(search(one, methods=METHODS))
    first = amounts_after(one, steps[:1])["macs"]
    assert steps[0].group == TOGETHER
    assert 200 + 0.9 * (1 - SHARE) * (384 - 200) <= first <= 200 + (1 - SHARE) * (384 - 200)
    assert all(step.group in GROUPS for step in steps[1:])
    assert met(amounts_after(one, steps), one.limits)
    assert len(steps) < 0.5 * len(list(search(one)))


def test_curves_that_go_the_whole_way_leave_the_loop_what_a_measurement_says_is_too_slow() -> None:
    exact = simulated(200.0)
    (only,) = search(exact, methods=replace(METHODS, start_share=1.0))
    assert only.group == TOGETHER
    assert met(amounts_after(exact, [only]), exact.limits)
    slow = simulated(200.0, corrections=[{"macs": 1.1}] * 9)
    steps = list(search(slow, methods=replace(METHODS, start_share=1.0)))
    assert steps[0].group == TOGETHER
    assert len(steps) > 1 and all(step.group in GROUPS for step in steps[1:])
    assert met(amounts_after(slow, steps), slow.limits)


def test_the_first_iteration_after_it_evaluates_the_groups_that_probes_say_could_win() -> None:
    one = simulated(200.0)
    steps = list(search(one, methods=METHODS))
    assert len(steps[1].tried) == BATCH
    full = list(search(one, steps[:1], methods=replace(METHODS, errors=None)))
    assert full[0].group == steps[1].group
    assert len(full[0].tried) > BATCH


def test_each_target_has_a_start_of_its_own_and_a_met_one_has_none() -> None:
    loose = simulated(300.0)
    steps = list(search(loose, methods=METHODS))
    tight = replace(loose, limits={"macs": 200.0}, since=len(steps))
    assert is_due(tight, steps)
    goal = jump_problem(tight, steps, SHARE).limits["macs"]
    now = amounts_after(tight, steps)["macs"]
    assert abs(goal - (200 + (1 - SHARE) * (now - 200))) <= 1e-9 * now
    more = list(search(tight, steps, methods=METHODS))
    assert more[0].group == TOGETHER
    assert not is_due(replace(tight, since=len(steps) + len(more)), [*steps, *more])


def test_a_portfolio_whose_winner_is_measured_too_slow_has_the_curves_choose_again() -> None:
    """What wins the portfolio is measured at 1.1 times its prediction; NetAdapt's loop would cut one group for it."""
    slow: list[int] = []
    one = simulated(200.0)
    accept = one.accept

    def accepted(iteration: int, proposal: Any) -> Accepted:
        evaluated = accept(iteration, proposal)
        if slow or proposal.method == "curves":
            slow.append(iteration)
            return replace(evaluated, correction={"macs": 1.1})
        return evaluated

    def solved(_: int, __: str, proposals: Sequence[Any], numbers: Sequence[int]) -> list[float]:
        return [accuracy(proposals[n].widths) + 0.1 * (proposals[n].method == "curves") for n in numbers]

    one = replace(one, accept=accepted, solve_jointly=solved)
    plan = PortfolioPlan("netadapt", losses=lambda: ERRORS)
    steps = list(search(one, methods=Methods(errors=lambda: ERRORS, portfolio=plan)))
    names = [step.group for step in steps]
    assert names[-2:] == [PORTFOLIO, TOGETHER]
    assert not met(amounts_after(one, steps[:-1]), one.limits)
    assert met(amounts_after(one, steps), one.limits)


def test_widths_with_room_left_stay_unless_another_round_finds_better_ones() -> None:
    """Measured at 0.8 times the prediction there is room; what the next round finds has to be more accurate."""
    one = simulated(200.0, corrections=[{"macs": 0.8}] * 9)
    steps = list(search(one, methods=Methods(curves=lambda: ERRORS)))
    assert [step.group for step in steps] == [TOGETHER, TOGETHER]
    assert steps[1].accepted.accuracy > steps[0].accepted.accuracy
    worse = replace(one, solve_jointly=lambda _, __, proposals, numbers: [0.0 for _ in numbers])
    worse = replace(worse, accept=simulated(200.0, corrections=[{"macs": 0.8}] * 9).accept)
    assert len(list(search(worse, methods=Methods(curves=lambda: ERRORS)))) == 1


def test_a_little_room_is_not_worth_another_round() -> None:
    one = replace(simulated(200.0, corrections=[{"macs": 0.97}] * 9), choices=narrow_choices())
    (only,) = search(one, methods=Methods(curves=lambda: ERRORS))
    assert 0.95 * 200 <= 0.97 * macs(only.widths)["macs"] <= 200


def narrow_choices() -> list[ChannelChoices]:
    counts = tuple(range(31, 0, -1))
    return [ChannelChoices(name, 32, counts, (32, *counts)) for name in GROUPS]
