"""Budgets as people write them, and the limits that they set."""

import pytest

from netadapt_onnx.common.budget import Budget, parse_budgets
from netadapt_onnx.errors import NetadaptError


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
        ("size=500B", Budget("size", 500.0, False)),
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
        ("latency=12", "latency=12 has no unit; write latency=12ms"),
        ("size=4", "size=4 has no unit; write size=4MB, or size=4B for bytes"),
        ("latency=12parsecs", "not an amount of latency"),
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
