"""Step targets of a search and where they lead."""

import pytest

from netadapt_onnx.search.options import AdaptOptions
from netadapt_onnx.search.schedule import Schedule


def test_targets_follow_the_paper() -> None:
    schedule = Schedule(0.025, 0.96)
    assert schedule.target(1, 1000, 1000, 0) == 975
    assert schedule.target(3, 1000, 900, 0) == pytest.approx(900 - 25 * 0.96**2)


def test_the_last_target_is_the_budget() -> None:
    assert Schedule(0.025, 0.96).target(1, 1000, 510, 500) == 500


def test_steps_may_be_relative_to_the_current_amount() -> None:
    assert Schedule(0.1, 1.0, "current").target(2, 1000, 500, 0) == 450
    assert Schedule(0.1, 1.0, "current").reach(1000, 2) == pytest.approx(810)


def test_the_default_series_removes_at_most_62_5_percent() -> None:
    defaults = AdaptOptions(budget=("macs=0.5x",))
    assert Schedule(defaults.init_reduction_ratio, defaults.decay).reach(1.0, 10_000) == pytest.approx(0.375)


@pytest.mark.parametrize("of", ["initial", "current"])
def test_the_decay_is_raised_just_far_enough(of: str) -> None:
    schedule = Schedule(0.025, 0.96, of)  # type: ignore[arg-type]
    raised = schedule.reaching(1.0, 0.3, 100)
    assert 0.96 < raised.decay < 1
    assert raised.reach(1.0, 100) == pytest.approx(0.3, abs=1e-6)
    assert raised.reach(1.0, 100) <= 0.3


def test_a_decay_that_suffices_or_cannot_suffice_below_one_is_left_or_ends_at_one() -> None:
    assert Schedule(0.025, 0.96).reaching(1.0, 0.5, 100) == Schedule(0.025, 0.96)
    assert Schedule(0.025, 0.96).reaching(1.0, 0.5, 10).decay == 1.0
    assert Schedule(0.025, 1.0).reaching(1.0, 0.1, 3) == Schedule(0.025, 1.0)
