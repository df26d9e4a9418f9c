"""Counts near those of a cut that a device likes better."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

import pytest

from models import residual
from netadapt_onnx.graph.fold_shapes import fold
from netadapt_onnx.profilers.table.faster_counts import faster_counts
from netadapt_onnx.profilers.table.staircase import Staircase
from netadapt_onnx.surgery.trace import Trace, trace

Shapes = Mapping[str, tuple[int, ...]]


@pytest.fixture(scope="module")
def traced() -> Trace:
    return trace(fold(residual(96, size=8)))


class Device:
    """A device on which a conv's time goes by blocks of 16 channels, times 3 for widths that are no multiple of 4."""

    staircase = Staircase(16, 4)

    def __init__(self, traced: Trace) -> None:
        nodes = traced.folded.proto.graph.node
        self.weights = {node.name: node.input[1] for node in nodes if node.op_type == "Conv"}

    def predict_units(self, shapes: Shapes) -> dict[str, float]:
        times = {}
        for name, weight in self.weights.items():
            out, inputs = shapes[weight][:2]
            times[name] = -(-out // 16) * -(-inputs // 16) * (3.0 if out % 4 or inputs % 4 else 1.0)
        return times

    def predict(self, shapes: Shapes) -> float:
        return sum(self.predict_units(shapes).values())


def test_a_cut_within_a_step_goes_up_to_the_top_of_it(traced: Trace) -> None:
    device, name = Device(traced), traced.prunable[0].name
    original = device.predict(traced.flat.shapes)
    better = faster_counts(cast(Any, device), traced, {name: 68}, original)
    assert better is not None and better.counts == {name: 80}
    assert better.ms <= device.predict(traced.resized_shapes({name: list(range(68))}))  # type: ignore[dict-item]


def test_a_cut_that_is_slower_than_the_original_gets_counts_that_are_not(traced: Trace) -> None:
    device = Device(traced)
    original = device.predict(traced.flat.shapes)
    counts = {group.name: 90 for group in traced.prunable}  # the slow kernels of widths off 4
    better = faster_counts(cast(Any, device), traced, counts, original)
    assert better is not None and better.ms < original
    assert all(count % 16 == 0 for count in better.counts.values())
    assert any(count >= 80 for count in better.counts.values())


def test_counts_at_the_top_of_their_steps_are_left_alone(traced: Trace) -> None:
    device = Device(traced)
    original = device.predict(traced.flat.shapes)
    counts = {group.name: 48 for group in traced.prunable}
    assert faster_counts(cast(Any, device), traced, counts, original) is None


class OneWidth(Device):
    """A device that likes one width alone: convs of any other take twice as long."""

    staircase = Staircase(1, 1)

    def predict_units(self, shapes: Shapes) -> dict[str, float]:
        fast = {name: shapes[w][0] == 96 and shapes[w][1] in (3, 96) for name, w in self.weights.items()}
        return {name: 1.0 if is_fast else 2.0 for name, is_fast in fast.items()}


@pytest.mark.parametrize("groups", [1, None])
def test_the_original_is_not_proposed_in_place_of_a_cut(traced: Trace, groups: int | None) -> None:
    device = OneWidth(traced)
    counts = {group.name: 80 for group in traced.prunable[:groups]}
    assert faster_counts(cast(Any, device), traced, counts, device.predict(traced.flat.shapes)) is None
