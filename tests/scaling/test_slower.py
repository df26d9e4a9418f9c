"""A network that is smaller and slower is named; one that is faster, larger or not certainly slower is not."""

from __future__ import annotations

import pytest

from netadapt_onnx.common.resources import Resources
from netadapt_onnx.scaling.result import OriginalNetwork, ScaledModel
from netadapt_onnx.scaling.slower import slower_note


def network(params: int, macs: int) -> Resources:
    return Resources(params, macs, 4 * params, 1000, None)


def note(params: int, macs: int, ratio: float | None, interval: tuple[float, float] | None) -> str:
    original = OriginalNetwork(network(1000, 5000), {}, None)
    model = ScaledModel("params=0.5x", "neuralscale", None, network(params, macs), ratio, {}, None, None, interval)
    return slower_note(model, original)


def test_a_smaller_network_that_is_slower_is_named() -> None:
    text = note(500, 9000, 1.8, (1.7, 1.9))
    for part in ("params=0.5x (neuralscale)", "0.50x of the parameters", "1.80x", "1.70x to 1.90x", "--target latency"):
        assert part in text
    assert "0.50x of the MACs" in note(1500, 2500, 1.2, (1.1, 1.3))


@pytest.mark.parametrize(
    ("params", "macs", "ratio", "interval"),
    [
        (500, 2500, 0.6, (0.5, 0.7)),
        (500, 9000, 1.05, (0.95, 1.2)),
        (2000, 9000, 1.8, (1.7, 1.9)),
        (500, 2500, None, None),
    ],
)
def test_nothing_is_said_of_others(
    params: int, macs: int, ratio: float | None, interval: tuple[float, float] | None
) -> None:
    assert note(params, macs, ratio, interval) == ""
