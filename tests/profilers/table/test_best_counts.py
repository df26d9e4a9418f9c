from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pytest

from models import residual
from netadapt_onnx.errors import NetadaptError
from netadapt_onnx.graph.fold_shapes import fold
from netadapt_onnx.profilers.table.best_counts import best_counts, best_points
from netadapt_onnx.profilers.table.staircase import Staircase
from netadapt_onnx.surgery.criteria.selection import select
from netadapt_onnx.surgery.trace import Trace, trace

Shapes = Mapping[str, tuple[int, ...]]


@pytest.fixture(scope="module")
def traced() -> Trace:
    return trace(fold(residual(96, size=8)))


class StaircaseDevice:
    """A device on which a conv's time goes by blocks of `block` channels, with a slight slope, and by `odd` off 4."""

    def __init__(self, traced: Trace, block: int, slope: float = 0.0, odd: float = 3.0) -> None:
        nodes = traced.folded.proto.graph.node
        self.weights = {node.name: node.input[1] for node in nodes if node.op_type == "Conv"}
        self.block, self.slope, self.odd = block, slope, odd
        self.staircase = Staircase(block, 4)

    def predict_units(self, shapes: Shapes) -> dict[str, float]:
        result = {}
        for name, weight in self.weights.items():
            out, inputs = shapes[weight][:2]
            time = -(-out // self.block) * -(-inputs // self.block) + self.slope * out
            result[name] = time * (self.odd if out % 4 or inputs % 4 else 1.0)
        return result


def test_counts_are_the_tops_of_the_steps(traced: Trace) -> None:
    [group, *_] = traced.prunable
    assert group.channels == 96
    for block in (8, 16, 32):
        assert best_counts(StaircaseDevice(traced, block), traced, group.name) == tuple(range(96, 0, -block))


def test_a_slope_within_steps_does_not_make_new_ones(traced: Trace) -> None:
    [group, *_] = traced.prunable
    assert best_counts(StaircaseDevice(traced, 16, slope=0.01), traced, group.name) == (96, 80, 64, 48, 32, 16)


def test_without_steps_every_aligned_count_is_worth_it(traced: Trace) -> None:
    [group, *_] = traced.prunable
    assert best_counts(StaircaseDevice(traced, 4), traced, group.name) == tuple(range(96, 0, -4))


def test_present_widths_are_where_it_begins(traced: Trace) -> None:
    [group, other, *_] = traced.prunable
    result = best_counts(StaircaseDevice(traced, 16), traced, group.name, {group.name: 52, other.name: 40})
    assert result == (52, 48, 32, 16)


def test_no_count_is_slower_than_a_larger_one(traced: Trace) -> None:
    """A count that more channels beat is never proposed: here 80 costs more than 96."""

    class Humped(StaircaseDevice):
        def predict_units(self, shapes: Shapes) -> dict[str, float]:
            result = super().predict_units(shapes)
            cut = shapes[self.weights[group.name]][0]
            return {name: us * (1.5 if 64 < cut < 96 else 1.0) for name, us in result.items()}

    [group, *_] = traced.prunable
    table = Humped(traced, 16)
    counts = best_counts(table, traced, group.name)
    assert 80 not in counts
    times = [
        sum(table.predict_units(traced.resized_shapes(select(traced, {group.name: n}, "first"))).values())
        for n in counts
    ]
    assert times == sorted(times, reverse=True)


@pytest.mark.parametrize("seed", range(20))
def test_points_descend_in_time_whatever_the_staircase(seed: int) -> None:
    rng = np.random.default_rng(seed)
    counts = list(range(64, 0, -1))
    times = np.cumsum(rng.exponential(1.0, 64))[::-1] + rng.normal(0, 2.0, 64) + 10
    kept = best_points(counts, times)
    assert kept[0] == 0
    assert (np.diff(times[kept]) < 0).all()


def test_an_unknown_group_is_named(traced: Trace) -> None:
    with pytest.raises(NetadaptError, match="no group 'nothing'"):
        best_counts(StaircaseDevice(traced, 16), traced, "nothing")
