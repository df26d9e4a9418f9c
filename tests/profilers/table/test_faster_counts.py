"""Counts near those of a cut at which a device is faster."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, cast

import pytest

from models import residual
from netadapt_onnx.graph.fold_shapes import fold
from netadapt_onnx.profilers.table.faster_counts import FasterCounts, faster_counts
from netadapt_onnx.profilers.table.staircase import Staircase
from netadapt_onnx.surgery.criteria.selection import select
from netadapt_onnx.surgery.trace import Trace, trace

Shapes = Mapping[str, tuple[int, ...]]
ERROR = 0.03


@pytest.fixture(scope="module")
def traced() -> Trace:
    return trace(fold(residual(96, size=8)))


class Device:
    """A device on which a conv's time goes by blocks of 16 channels, times 3 for widths that are no multiple of 4."""

    staircase = Staircase(16, 4)

    def __init__(self, traced: Trace) -> None:
        nodes = traced.folded.proto.graph.node
        self.weights = {node.name: node.input[1] for node in nodes if node.op_type == "Conv"}

    def conv(self, out: int, inputs: int) -> float:
        return -(-out // 16) * -(-inputs // 16) * (3.0 if out % 4 or (inputs % 4 and inputs != 3) else 1.0)

    def predict(self, shapes: Shapes) -> float:
        return sum(self.conv(*shapes[weight][:2]) for weight in self.weights.values())

    def predict_with_error(self, shapes: Shapes) -> tuple[float, float]:
        return self.predict(shapes), ERROR


class OneWidth(Device):
    """A device that likes one width alone: convs of any other take twice as long."""

    def conv(self, out: int, inputs: int) -> float:
        return 1.0 if out == 96 and inputs in (3, 96) else 2.0


class AllAligned(Device):
    """A device that takes three times as long as soon as any width is no multiple of 4."""

    def predict(self, shapes: Shapes) -> float:
        weights = [shapes[weight] for weight in self.weights.values()]
        return sum(s[0] * s[1] for s in weights) * (3.0 if any(s[0] % 4 for s in weights) else 1.0)


class Uncertain(Device):
    """A device whose table is sure of multiples of 16 alone."""

    def predict_with_error(self, shapes: Shapes) -> tuple[float, float]:
        return self.predict(shapes), ERROR if all(shapes[w][0] % 16 == 0 for w in self.weights.values()) else 0.9


class Narrow(Device):
    """A device on which every channel costs, so that the narrowest groups save most by the channel."""

    staircase = Staircase(1, 1)

    def conv(self, out: int, inputs: int) -> float:
        return float(out * inputs)


class ByWidth(Device):
    """A device whose time and error are functions of the groups' widths."""

    def __init__(
        self, traced: Trace, time: Callable[[Mapping[str, int]], float], error: Callable[[Mapping[str, int]], float]
    ) -> None:
        super().__init__(traced)
        self.groups, self.time, self.error = [group.name for group in traced.prunable], time, error

    def predict_with_error(self, shapes: Shapes) -> tuple[float, float]:
        widths = {name: shapes[self.weights[name]][0] for name in self.groups}
        return self.time(widths), self.error(widths)

    def predict(self, shapes: Shapes) -> float:
        return self.predict_with_error(shapes)[0]


def near(device: Device, traced: Trace, counts: Mapping[str, int], **options: Any) -> FasterCounts | None:
    original = device.predict(traced.flat.shapes)
    return faster_counts(cast(Any, device), traced, counts, original, **options)


def time_at(device: Device, traced: Trace, counts: Mapping[str, int]) -> float:
    return device.predict(traced.resized_shapes(select(traced, counts, "first")))


@pytest.mark.parametrize("count", [94, 90, 66, 30])
@pytest.mark.parametrize("kind", [Device, AllAligned])
def test_a_proposal_is_clearly_faster_than_both_the_cut_and_the_original(
    traced: Trace, kind: type[Device], count: int
) -> None:
    device = kind(traced)
    counts = {group.name: count for group in traced.prunable}
    better = near(device, traced, counts)
    assert better is not None
    assert better.ms == time_at(device, traced, better.counts)
    assert better.ms * (1 + ERROR) < min(time_at(device, traced, counts), device.predict(traced.flat.shapes))


def test_a_cut_off_the_alignment_goes_to_the_next_counts_and_no_further(traced: Trace) -> None:
    counts = {group.name: 66 for group in traced.prunable}
    better = near(Device(traced), traced, counts)
    assert better is not None
    assert all(abs(count - 66) <= 2 for count in better.counts.values()), better.counts


def test_no_more_channels_go_than_it_takes(traced: Trace) -> None:
    """All groups at 94 take 3 times as long as the original; rounded up they are the original."""
    device = Device(traced)
    better = near(device, traced, {group.name: 94 for group in traced.prunable})
    assert better is not None
    lowered = [name for name, count in better.counts.items() if count < 92]
    assert len(lowered) == 1 and better.counts[lowered[0]] == 80
    raised = dict(better.counts) | dict.fromkeys(lowered, 96)
    assert time_at(device, traced, raised) * (1 + ERROR) >= device.predict(traced.flat.shapes)


def test_a_cut_that_is_clearly_faster_loses_no_channel(traced: Trace) -> None:
    device = Device(traced)
    for count in (30, 34, 50, 62):
        counts = {group.name: count for group in traced.prunable}
        assert time_at(device, traced, counts) * (1 + ERROR) < 2 * device.predict(traced.flat.shapes)
        better = faster_counts(cast(Any, device), traced, counts, 2 * device.predict(traced.flat.shapes))
        assert better is not None
        assert all(better.counts[name] >= count for name in counts)


@pytest.mark.parametrize("count", [16, 48, 68, 80])
def test_counts_that_are_aligned_and_faster_than_the_original_are_left_alone(traced: Trace, count: int) -> None:
    assert near(Device(traced), traced, {group.name: count for group in traced.prunable}) is None


def test_floors_and_steps_of_the_user_hold(traced: Trace) -> None:
    device = Device(traced)
    counts = {group.name: 90 for group in traced.prunable}
    kept = traced.prunable[0].name
    free = near(device, traced, counts)
    held = near(device, traced, counts, floors={kept: 90})
    assert free is not None and held is not None
    assert held.counts[kept] >= 90
    assert near(device, traced, counts, floors=counts) is None  # at 92 and above nothing is faster than the original
    stepped = near(device, traced, counts, step=24)
    assert stepped is not None
    changed = {n for name, n in stepped.counts.items() if n != counts[name]}
    assert changed and all(n % 24 == 0 for n in changed)


def test_a_device_that_minds_any_odd_width_gets_all_groups_rounded_at_once(traced: Trace) -> None:
    device = AllAligned(traced)
    counts = {group.name: 66 for group in traced.prunable}
    alone = [{**counts, name: 68} for name in counts]
    assert all(time_at(device, traced, one) >= time_at(device, traced, counts) for one in alone)
    better = near(device, traced, counts)
    assert better is not None and set(better.counts.values()) <= {64, 68}


def test_counts_whose_time_is_uncertain_are_not_proposed(traced: Trace) -> None:
    better = near(Uncertain(traced), traced, {group.name: 90 for group in traced.prunable})
    assert better is not None and all(count % 16 == 0 for count in better.counts.values())


def test_what_would_save_most_is_not_taken_where_that_is_uncertain(traced: Trace) -> None:
    sure, unsure, _ = names = [group.name for group in traced.prunable]
    device = ByWidth(
        traced, lambda w: 10 + 0.1 * w[sure] + 0.2 * w[unsure], lambda w: ERROR if w[unsure] == 80 else 0.9
    )
    better = faster_counts(cast(Any, device), traced, dict.fromkeys(names, 80), 32.0)
    assert better is not None and better.counts[unsure] == 80 and better.counts[sure] < 80


def test_what_is_faster_by_less_than_the_error_is_not_proposed(traced: Trace) -> None:
    names = [group.name for group in traced.prunable]

    def better(share: float) -> FasterCounts | None:
        device = ByWidth(traced, lambda w: 1 + share * (w[names[0]] % 4 != 0), lambda _: ERROR)
        return faster_counts(cast(Any, device), traced, dict.fromkeys(names, 66), 3.0)

    assert better(ERROR - 0.01) is None
    assert better(ERROR + 0.01) is not None


def test_channels_go_back_only_where_that_is_worth_it(traced: Trace) -> None:
    costly, cheap, _ = names = [group.name for group in traced.prunable]
    device = ByWidth(traced, lambda w: 1 + (w[costly] % 4 != 0) + 0.004 * (w[cheap] % 4 != 0), lambda _: ERROR)
    better = faster_counts(cast(Any, device), traced, dict.fromkeys(names, 66), 3.0)
    assert better is not None and better.counts == dict.fromkeys(names, 66) | {costly: 68}


def test_what_has_to_go_is_spread_over_groups(traced: Trace) -> None:
    device = Narrow(traced)
    counts = {group.name: 95 for group in traced.prunable}
    original = 0.9 * time_at(device, traced, counts)
    better = faster_counts(cast(Any, device), traced, counts, original)
    assert better is not None and better.ms * (1 + ERROR) < original
    lost = sorted(95 - count for count in better.counts.values())
    assert lost[-1] < sum(lost) / 2


@pytest.mark.parametrize("groups", [1, None])
def test_the_original_is_not_proposed_in_place_of_a_cut(traced: Trace, groups: int | None) -> None:
    device = OneWidth(traced)
    counts = {group.name: 80 for group in traced.prunable[:groups]}
    assert near(device, traced, counts) is None
    slower = 2 * device.predict(traced.flat.shapes)  # as a file may be before it is normalised
    better = faster_counts(cast(Any, device), traced, counts, slower)
    assert better is None or any(count < 96 for count in better.counts.values())
