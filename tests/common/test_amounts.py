"""Amounts and durations as people write them."""

from __future__ import annotations

import pytest

from netadapt_onnx.common.amounts import EXAMPLES, parse_amount, parse_seconds


@pytest.mark.parametrize(
    ("resource", "text", "amount"),
    [
        ("macs", "20M", (20e6, False)),
        ("macs", "1.3 g", (1.3e9, False)),
        ("params", "3e5", (3e5, False)),
        ("size", "4.2MB", (4.2e6, False)),
        ("size", "4 MiB", (4 * 2.0**20, False)),
        ("latency", "0.012s", (12.0, False)),
        ("latency", "250µs", (0.25, False)),
        ("energy", "5mJ", (5.0, False)),
        ("latency", "0.6x", (0.6, True)),
        ("memory", "2%", (0.02, True)),
        ("custom", "7k", (7000.0, False)),
    ],
)
def test_an_amount_is_in_the_resources_unit_or_a_share(resource: str, text: str, amount: tuple[float, bool]) -> None:
    assert parse_amount(resource, text) == pytest.approx(amount)


@pytest.mark.parametrize(
    ("resource", "text"),
    [("size", "3ms"), ("latency", "12"), ("latency", "12 parsecs"), ("macs", "-1"), ("macs", "1e999"), ("macs", "")],
)
def test_what_is_no_amount_of_the_resource_is_none(resource: str, text: str) -> None:
    assert parse_amount(resource, text) is None


def test_every_example_is_an_amount() -> None:
    assert all(parse_amount(resource, text) is not None for resource, text in EXAMPLES.items())


def test_durations_have_units_and_are_above_zero() -> None:
    assert [parse_seconds(text) for text in ("60s", "2m", "1.5 h", "500ms", "7")] == [60.0, 120.0, 5400.0, 0.5, 7.0]
    assert [parse_seconds(text) for text in ("0", "-1s", "1d", "soon")] == [None] * 4
