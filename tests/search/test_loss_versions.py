"""Versions of the losses: powers, draws around the best, and what another competition takes over."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np

from netadapt_onnx.search.loss_versions import MOST_CARRIED, POWERS, ROUND, SIGMA, LossVersions, versions_after
from netadapt_onnx.search.netadapt import Accepted, EvaluatedProposal, Step
from netadapt_onnx.search.proposals import TOGETHER

GROUPS = tuple(f"group{n}" for n in range(64))
LOSSES = {name: np.linspace(0, 0.1, 5) for name in GROUPS}
FIRST = ["curves", "curves^0.5", "curves^2"]


class Competition:
    """Evaluates versions by a function of their names, and remembers which were asked for, and their losses."""

    def __init__(self, versions: LossVersions, accuracy: Callable[[str], float | None]) -> None:
        self.versions = versions
        self.accuracy = accuracy
        self.rounds: list[list[str]] = []
        self.losses: dict[str, Mapping[str, np.ndarray]] = {}

    def __call__(self, names: Sequence[str]) -> dict[str, float | None]:
        self.rounds.append(list(names))
        self.losses |= {name: self.versions[name] for name in names}
        return {name: self.accuracy(name) for name in names}


def run(versions: LossVersions, draws: int, accuracy: Callable[[str], float | None]) -> Competition:
    competition = Competition(versions, accuracy)
    versions.compete(draws, competition)
    return competition


def step_of(competition: Competition, without: Sequence[str] = ()) -> Step:
    """The step of a competition; some versions are left out, as those whose widths others have chosen before."""
    names = [name for names in competition.rounds for name in names if name not in without]
    tried = tuple(EvaluatedProposal(name, 1, {}, competition.accuracy(name)) for name in names)
    return Step(1, TOGETHER, (2, 1), {}, "macs", 1.0, {}, Accepted(0.5, None, {}), tried, ())


def sigma(losses: Mapping[str, np.ndarray], around: Mapping[str, np.ndarray]) -> float:
    """How far losses were drawn from others: the standard deviation of the logarithms of 64 factors."""
    return float(np.std([np.log(losses[name][-1] / around[name][-1]) for name in GROUPS]))


def test_powers_come_first_and_draws_in_rounds() -> None:
    competition = run(LossVersions(LOSSES), ROUND + 1, lambda _: 0.5)
    draws = [f"curves, draw {n}" for n in range(1, ROUND + 2)]
    assert competition.rounds == [FIRST, draws[:ROUND], draws[ROUND:]]
    for name, power in zip(FIRST, POWERS, strict=True):
        np.testing.assert_allclose(competition.losses[name]["group0"], LOSSES["group0"] ** power)
    assert run(LossVersions(LOSSES), 0, lambda _: 0.5).rounds == [FIRST]


def test_losses_are_drawn_nearer_to_the_best_wherever_none_was_better() -> None:
    """Around the winner of a round, as far as before; after a round without one half as far."""
    competition = run(LossVersions(LOSSES), 3 * ROUND, lambda name: 1.0 if name == "curves, draw 2" else 0.5)
    rounds, losses = competition.rounds[1:], competition.losses
    winner = losses["curves, draw 2"]
    for names, center, expected in zip(rounds, (LOSSES, winner, winner), (SIGMA, SIGMA, SIGMA / 2), strict=True):
        assert all(0.7 * expected < sigma(losses[name], center) < 1.3 * expected for name in names)
    assert len({losses[name]["group0"][-1] for names in rounds for name in names}) == 3 * ROUND


def test_nothing_is_drawn_where_all_have_failed() -> None:
    assert run(LossVersions(LOSSES), ROUND, lambda _: None).rounds == [FIRST, []]


def test_another_competition_begins_with_the_best_of_the_one_before_and_half_of_the_draws() -> None:
    best = {"curves, draw 3": 0.9, "curves^2": 0.8, "curves, draw 7": 0.7}
    first = run(LossVersions(LOSSES), 2 * ROUND, lambda name: best.get(name, 0.5))
    versions, draws = versions_after(LOSSES, [step_of(first)], 2 * ROUND)
    second = run(versions, draws, lambda name: best.get(name, 0.5))
    assert draws == ROUND
    assert second.rounds == [list(best)[:MOST_CARRIED], [f"curves, draw {n}" for n in range(9, 13)]]
    for name in second.rounds[0]:  # drawn again from the history to the same bits
        assert all(np.array_equal(second.losses[name][group], first.losses[name][group]) for group in GROUPS)
    # The first competition's second round had found nothing better around draw 3 either.
    center = first.losses["curves, draw 3"]
    assert all(sigma(second.losses[name], center) < 0.7 * SIGMA for name in second.rounds[1])


def test_versions_whose_widths_were_had_before_leave_no_trace_in_the_history_and_change_nothing() -> None:
    def accuracy(name: str) -> float | None:
        return None if name in without else {"curves, draw 6": 0.9}.get(name, 0.5)

    without = [*(f"curves, draw {n}" for n in range(1, ROUND + 1)), "curves^2"]
    first = run(LossVersions(LOSSES), 2 * ROUND, accuracy)
    second = run(versions_after(LOSSES, [step_of(first, without)], 2 * ROUND)[0], 0, accuracy)
    assert second.rounds[0][0] == "curves, draw 6"
    np.testing.assert_array_equal(second.losses["curves, draw 6"]["group1"], first.losses["curves, draw 6"]["group1"])


def test_after_steps_without_a_competition_it_begins_with_the_powers() -> None:
    versions, draws = versions_after(LOSSES, [step_of(run(LossVersions(LOSSES), 0, lambda _: 0.5), FIRST)], ROUND)
    assert (run(versions, 0, lambda _: 0.5).rounds, draws) == ([FIRST], ROUND)
    failed = step_of(run(LossVersions(LOSSES), 0, lambda _: None))
    assert run(versions_after(LOSSES, [failed], ROUND)[0], 0, lambda _: 0.5).rounds == [FIRST]
