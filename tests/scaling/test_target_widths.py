"""Groups move to the allowed widths whose cost is nearest to a goal."""

from __future__ import annotations

import itertools
from collections.abc import Mapping

import pytest

from netadapt_onnx.scaling.target_widths import AllowedWidths, nearest


def test_groups_move_by_at_most_a_rung_to_come_nearest_to_a_cost() -> None:
    allowed = {"a": AllowedWidths(64, 16, 16), "b": AllowedWidths(64, 16, 16), "c": AllowedWidths(64, 16, 16)}
    per_rung = {"a": 5.0, "b": 3.1, "c": 1.3}

    def cost(widths: Mapping[str, int]) -> float:
        return sum(per_rung[name] * n / 16 for name, n in widths.items())

    start = {"a": 32, "b": 32, "c": 16}
    for target in (10.0, 12.6, 15.8, 17.6, 19.0, 100.0):
        nearest_widths = nearest(start, allowed, cost, target, 0.0)
        moves = itertools.product((16, 32, 48), (16, 32, 48), (16, 32))
        best = min(abs(cost(dict(zip(start, widths, strict=True))) - target) for widths in moves)
        assert abs(cost(nearest_widths) - target) == pytest.approx(best)
