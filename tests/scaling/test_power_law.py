"""Laws of widths are least squares of logarithms, over the records that say something."""

from __future__ import annotations

import numpy as np
import pytest

from netadapt_onnx.scaling.power_law import fit_laws
from netadapt_onnx.scaling.width_record import WidthRecord


def test_exponents_are_those_of_least_squares() -> None:
    rng = np.random.default_rng(3)
    tau = np.geomspace(1e4, 1e6, 30)
    widths = np.stack([2 * tau**0.4, 0.5 * tau**0.55], axis=1) * rng.lognormal(0, 0.05, (30, 2))
    for group, column in zip(fit_laws(WidthRecord(("a", "b"), widths, tau)), widths.T, strict=True):
        slope, intercept = np.polyfit(np.log(tau), np.log(column), 1)
        assert group.beta == pytest.approx(slope, rel=1e-6)
        assert group.alpha == pytest.approx(np.exp(intercept), rel=1e-6)


def test_rows_at_a_groups_floor_leave_its_fit() -> None:
    tau = np.geomspace(1e5, 1e3, 20)
    free = 40 * (tau / 1e5) ** 0.5
    record = WidthRecord(("a", "b"), np.stack([free, np.maximum(free / 8, 2)], axis=1), tau)
    a, b = fit_laws(record, {"a": 1, "b": 2})
    assert (a.rows, b.rows) == (20, int((free / 8 > 2).sum()))
    assert b.beta == pytest.approx(0.5, rel=1e-9)
