"""Uniform widths: the largest share of every group's channels that is within the limits."""

from __future__ import annotations

from collections.abc import Mapping

from netadapt_onnx.search.allowed_counts import ChannelChoices
from netadapt_onnx.search.uniform import largest_uniform

CHOICES = [
    ChannelChoices("a", 16, (8,), (16, 8)),
    ChannelChoices("b", 64, (56, 48, 40, 32, 24, 16, 8), (64, 32)),
    ChannelChoices("block", 1, (0,), (1, 0)),
]


def cost(widths: Mapping[str, int]) -> dict[str, float]:
    return {"macs": 1.0 * widths["a"] * widths["b"] * widths["block"]}


def test_the_largest_share_within_the_limit_is_taken_and_blocks_stay() -> None:
    assert largest_uniform(CHOICES, {"block": 1}, cost, {"macs": 512.0}) == {"a": 8, "b": 48, "block": 1}
    assert largest_uniform(CHOICES, {"block": 1}, cost, {"macs": 2000.0}) == {"a": 16, "b": 56, "block": 1}


def test_a_staircase_that_rises_with_fewer_channels_is_looked_through() -> None:
    """Latency at 56 channels is above that at 64 and at 48."""

    def latency(widths: Mapping[str, int]) -> dict[str, float]:
        return {"latency": {56: 2.0, 48: 1.0, 64: 1.5}.get(widths["b"], 0.5)}

    assert largest_uniform(CHOICES, {"block": 1}, latency, {"latency": 1.2}) == {"a": 8, "b": 48, "block": 1}


def test_limits_below_the_smallest_share_have_no_uniform_widths() -> None:
    assert largest_uniform(CHOICES, {"block": 1}, cost, {"macs": 63.0}) is None
