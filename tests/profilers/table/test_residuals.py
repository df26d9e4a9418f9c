"""What a curve leaves of its cells is made up for where cells are near; where none is, the expected error grows."""

from __future__ import annotations

import numpy as np
import pytest

from netadapt_onnx.profilers.table.arrays import Floats, Ints
from netadapt_onnx.profilers.table.kernel_fit import fit_curve
from netadapt_onnx.profilers.table.residuals import Residuals, residuals
from netadapt_onnx.profilers.table.staircase import Staircase

STAIRCASE = Staircase(16, 4)


def cliff_us(widths: Ints) -> Floats:
    """A kernel whose cache is full from 13 channels on, and that takes 16 as a whole block."""
    out = widths[:, 1]
    return 5.0 + 0.1 * widths[:, 0] * -(-out // 16) + np.where((out > 12) & (out < 16), 13.0, 0.0)


def cells(widths: Ints, noise: float = 0.005) -> Residuals:
    rng = np.random.default_rng(0)
    us = cliff_us(widths) * np.exp(noise * rng.standard_normal(len(widths)))
    return residuals(fit_curve(widths, {"": us}, STAIRCASE), widths, us)


def drawn(low: int, high: int, count: int = 160, seed: int = 1) -> Ints:
    return np.random.default_rng(seed).integers(low, high + 1, (count, 2))


def test_a_cliff_within_a_class_of_widths_is_predicted_from_the_cells_near_it() -> None:
    fit, new = cells(drawn(8, 16)), drawn(8, 16, seed=2)
    truth = cliff_us(new)
    corrected, plain = np.abs(fit(new) / truth - 1), np.abs(fit.curve(new) / truth - 1)
    assert corrected.mean() < 0.3 * plain.mean()
    assert (np.abs(fit(new) - truth) <= 3 * fit.errors(new)).mean() > 0.9


def test_the_expected_error_grows_with_the_distance_from_the_cells() -> None:
    fit = cells(drawn(8, 16))
    near, far, further = (fit.errors(np.array([[w, w]])) / fit(np.array([[w, w]])) for w in (8, 4, 1))
    assert near < far < further
    assert further > 5 * near
    wide = fit.errors(np.array([[64, 64]])) / fit(np.array([[64, 64]]))
    assert wide > 2 * near


def test_a_class_of_widths_that_was_never_measured_is_less_certain() -> None:
    aligned = drawn(2, 16) * 4
    fit = cells(aligned)
    assert fit.errors(np.array([[33, 33]])) > 2 * fit.errors(np.array([[32, 32]]))


def test_corrections_that_would_not_help_are_left_out() -> None:
    """Where cells are off by chance alone, what others are off says nothing."""
    rng, widths = np.random.default_rng(0), np.random.default_rng(3).integers(16, 65, (60, 1))
    us = (2.0 + -(-widths[:, 0] // 16)) * np.exp(0.3 * rng.standard_normal(60))
    fit = residuals(fit_curve(widths, {"": us}, STAIRCASE), widths, us)
    if not fit.corrects:
        assert fit(widths) == pytest.approx(fit.curve(widths))
    off, without = (np.abs(f(widths) - (2.0 + -(-widths[:, 0] // 16))).mean() for f in (fit, fit.curve))
    assert off < 1.5 * without
