"""Which channel counts meet a budget: those that devices like where that costs nothing, any others where it does."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from models import plain
from netadapt_onnx.errors import NetadaptError
from netadapt_onnx.graph.fold_shapes import fold
from netadapt_onnx.profilers.execution import Execution
from netadapt_onnx.search.allowed_counts import ChannelChoices, allowed_counts, channel_choices
from netadapt_onnx.search.options import AdaptOptions
from netadapt_onnx.search.proposals import Goal, Proposer
from netadapt_onnx.search.target_devices import open_target_devices
from netadapt_onnx.surgery.trace import Trace
from netadapt_onnx.surgery.trace import trace as traced
from search_problems import problem, search


def choices(channels: int, step: int, structural: int = 1, multiple: int = 8) -> ChannelChoices:
    group = cast(Any, SimpleNamespace(name="a", channels=channels, step=structural, floor=structural))
    return channel_choices(group, step).preferring(multiple)


def macs(widths: Mapping[str, int]) -> dict[str, float]:
    return {"macs": float(widths["a"])}


def cut(choice: ChannelChoices, limit: float, start: int, driver: str = "macs") -> int:
    """The count that is proposed on the step that reaches a budget, which 0.97 of it converges on."""
    goal = Goal(driver, limit, {driver: float(start)}, {driver: limit}, 0.97 * limit)
    proposer = Proposer([choice], lambda widths: {driver: float(widths["a"])})
    [proposal] = proposer.cuts({"a": start}, goal)
    return proposal.channels


@pytest.mark.parametrize("driver", ["macs", "params", "size", "memory"])
def test_a_counted_budget_is_met_by_a_multiple_of_the_step_where_one_converges_on_it(driver: str) -> None:
    assert cut(choices(512, 8), 405.0, 512, driver) == 400  # 0.988 of it
    assert cut(choices(512, 1), 405.0, 512, driver) == 405


def test_any_multiple_of_the_structural_step_meets_it_where_none_converges() -> None:
    assert cut(choices(64, 8), 39.0, 64) == 39  # 32 would be 0.82 of it
    assert cut(choices(64, 8, structural=2), 39.0, 64) == 38


def test_between_a_wide_step_and_any_count_come_multiples_of_what_devices_like() -> None:
    assert cut(choices(512, 128), 405.0, 512) == 400
    assert cut(choices(512, 128, multiple=4), 405.0, 512) == 404
    assert cut(choices(64, 8, multiple=4), 45.0, 64) == 44


def test_a_latency_says_itself_which_counts_a_device_likes() -> None:
    assert cut(choices(512, 8), 405.0, 512, "latency") == 405


def test_a_step_that_jumps_past_the_budget_meets_it_by_preferred_counts_too() -> None:
    goal = Goal("macs", 460.0, {"macs": 512.0}, {"macs": 405.0}, 0.97 * 405)
    [proposal] = Proposer([choices(512, 256)], macs).cuts({"a": 512}, goal)
    assert proposal.channels == 400


def test_channels_are_given_back_up_to_a_multiple_where_one_converges() -> None:
    def widened(choice: ChannelChoices, limit: float) -> int:
        goal = Goal("macs", limit, {"macs": 24.0}, {"macs": limit}, 0.97 * limit)
        [proposal] = Proposer([choice], macs).widen_proposals({"a": 24}, goal)
        return proposal.channels

    assert widened(choices(512, 8), 405.0) == 400
    assert widened(choices(64, 8), 39.0) == 39
    assert widened(choices(36, 8), 37.0) == 36  # all of its channels, as the original has them
    assert widened(choices(512, 1), 405.0) == 405


def test_a_search_for_macs_ends_on_multiples_and_within_its_budget() -> None:
    one = problem(
        {"a": 256, "b": 256}, lambda w: {"macs": 1.0 * w["a"] + w["b"]}, {"macs": 390.0}, lambda w: w["a"] / 256, step=8
    )
    steps = list(search(one))
    assert 0.97 * 390 <= steps[-1].resources["macs"] <= 390
    assert all(count % 8 == 0 for count in steps[-1].widths.values())


@pytest.fixture(scope="module")
def trace() -> Trace:
    """Groups conv1 (16), conv2 (48), conv3 (64): all convolutions."""
    return traced(fold(plain((16, 48, 64), size=8, classes=3)))


def test_without_a_table_devices_are_taken_to_like_multiples_of_8_and_with_one_of_its_alignment(trace: Trace) -> None:
    allowed = allowed_counts(16, 1, (), ())
    assert {c.group: c.aligned for c in allowed.choices(trace)}["conv2"] == (48, 40, 32, 24, 16, 8)
    assert {c.group: c.aligned for c in allowed.choices(trace, 4)}["conv1"] == (16, 12, 8, 4)


def test_an_automatic_step_without_a_table_is_8(trace: Trace) -> None:
    eight, auto = (allowed_counts(step, 1, (), ()).choices(trace) for step in (8, "auto"))
    assert eight == auto


def test_an_automatic_step_is_8_where_a_table_has_neither_steps_nor_an_alignment(trace: Trace) -> None:
    every = {group.name: tuple(range(group.channels, 0, -1)) for group in trace.prunable}
    auto = allowed_counts("auto", 1, (), ())
    assert auto.choices(trace, 1, lambda name: every[name]) == auto.choices(trace)


def test_an_alignment_alone_makes_an_automatic_step(trace: Trace) -> None:
    fours = {group.name: tuple(range(group.channels, 0, -4)) for group in trace.prunable}
    by_group = {c.group: c for c in allowed_counts("auto", 1, (), ()).choices(trace, 4, lambda name: fours[name])}
    assert by_group["conv1"].coarse == (12, 8, 4)


@pytest.mark.parametrize(
    ("options", "step"),
    [
        ({"budget": ("latency=0.6x",)}, "auto"),
        ({"budget": ("macs=0.5x", "latency=0.6x")}, "auto"),
        ({"budget": ("latency@pi=30ms",)}, "auto"),
        ({"budget": ("latency=0.8x,0.6x",)}, "auto"),
        ({"budget": ("macs=0.5x",)}, 8),
        ({"budget": ("energy=0.5x",)}, 8),
        ({"budget": ("latency=0.6x",), "preset": "paper"}, 8),
        ({"budget": ("latency=0.6x",), "step": 8}, 8),
        ({"budget": ("macs=0.5x",), "step": "auto"}, "auto"),
    ],
)
def test_the_step_is_automatic_with_a_latency_budget_unless_the_user_or_the_paper_says_otherwise(
    options: dict[str, Any], step: str | int
) -> None:
    one = AdaptOptions(**options)
    assert one.step == step
    assert one.allowed_counts.step == (None if step == "auto" else step)


def test_a_device_that_only_a_bundle_reaches_needs_a_table_whatever_the_step() -> None:
    budgets = AdaptOptions(budget=("latency=0.6x",)).targets[0]
    with (
        pytest.raises(NetadaptError, match="--device bundle needs the --table"),
        open_target_devices({"latency": "bundle"}, {}, budgets, Execution(), Path("run")),
    ):
        pass
