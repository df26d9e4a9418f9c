"""Step targets and the budgets they lead to."""

import pytest

from netadapt_onnx.common.budget import Budget, parse_budgets
from netadapt_onnx.errors import NetadaptError
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
    assert Schedule().reach(1.0, 10_000) == pytest.approx(0.375)


@pytest.mark.parametrize("of", ["initial", "current"])
def test_the_decay_is_raised_just_far_enough(of: str) -> None:
    schedule = Schedule(0.025, 0.96, of)  # type: ignore[arg-type]
    raised = schedule.reaching(1.0, 0.3, 100)
    assert 0.96 < raised.decay < 1
    assert raised.reach(1.0, 100) == pytest.approx(0.3, abs=1e-6)
    assert raised.reach(1.0, 100) <= 0.3


def test_a_decay_that_suffices_or_cannot_suffice_below_one_is_left_or_ends_at_one() -> None:
    assert Schedule().reaching(1.0, 0.5, 100) == Schedule()
    assert Schedule().reaching(1.0, 0.5, 10).decay == 1.0
    assert Schedule(0.025, 1.0).reaching(1.0, 0.1, 3) == Schedule(0.025, 1.0)


@pytest.mark.parametrize(
    ("text", "budget"),
    [
        ("latency=12ms", Budget("latency", 12.0, False)),
        ("latency=0.012s", Budget("latency", 12.0, False)),
        ("latency=0.6x", Budget("latency", 0.6, True)),
        ("macs=50%", Budget("macs", 0.5, True)),
        ("macs=300M", Budget("macs", 3e8, False)),
        ("params=300k", Budget("params", 3e5, False)),
        ("params=26308", Budget("params", 26308.0, False)),
        ("size=4.2MB", Budget("size", 4.2e6, False)),
        ("size=4 MiB", Budget("size", 4 * 2.0**20, False)),
        ("memory=.5X", Budget("memory", 0.5, True)),
    ],
)
def test_budgets_read_as_people_write_them(text: str, budget: Budget) -> None:
    (read,) = parse_budgets(text)
    assert (read.resource, read.relative) == (budget.resource, budget.relative)
    assert read.value == pytest.approx(budget.value)
    assert parse_budgets([str(read)]) == (read,)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("latency=12", "not an amount of latency"),
        ("latency", "not RESOURCE=VALUE"),
        ("latnecy=0.6x", "did you mean latency"),
        ("macs=0x", "not above zero"),
        ("macs=-1", "not an amount"),
        ("macs=nan", "not an amount"),
        ("size=3ms", "not an amount of size"),
        ("macs=", "not an amount"),
    ],
)
def test_budgets_that_mean_nothing_are_refused(text: str, message: str) -> None:
    with pytest.raises(NetadaptError, match=message):
        parse_budgets([text])


def test_a_resource_has_one_budget() -> None:
    with pytest.raises(NetadaptError, match="two budgets for macs"):
        parse_budgets(["macs=0.5x", "macs=1M"])
    with pytest.raises(NetadaptError, match="no budget"):
        parse_budgets([])


def test_budgets_may_be_a_mapping_and_custom() -> None:
    assert parse_budgets({"energy": 3.0, "macs": "0.5x"}, ["macs", "energy"]) == (
        Budget("energy", 3.0, False),
        Budget("macs", 0.5, True),
    )


def test_limits() -> None:
    assert Budget("macs", 0.5, True).limit(300) == 150
    assert Budget("macs", 100.0, False).limit(300) == 100
