from __future__ import annotations

import numpy as np
import pytest

from netadapt_onnx.profilers.table.kernel_fit import Traits, choose_staircase, choose_traits, fit_curve
from netadapt_onnx.profilers.table.nonnegative_fit import nonnegative
from netadapt_onnx.profilers.table.staircase import ALL_BITS, Staircase


@pytest.mark.parametrize("seed", range(5))
def test_nonnegative_equals_scipys(seed: int) -> None:
    optimize = pytest.importorskip("scipy.optimize")
    rng = np.random.default_rng(seed)
    a, x = rng.standard_normal((40, 7)), rng.standard_normal(7)
    y = a @ x + 0.1 * rng.standard_normal(40)
    expected, residual = optimize.nnls(a, y)
    result = nonnegative(a, y)
    assert (result >= 0).all()
    assert np.linalg.norm(a @ result - y) == pytest.approx(residual, rel=1e-6)
    assert result == pytest.approx(expected, abs=1e-5)


def test_coinciding_columns_are_harmless() -> None:
    a = np.stack([np.arange(1.0, 6.0)] * 3, 1)
    assert a @ nonnegative(a, 2.0 * np.arange(1.0, 6.0)) == pytest.approx(2.0 * np.arange(1.0, 6.0), rel=1e-6)


def simulated(rng: np.random.Generator, n: int, block: int = 16) -> tuple[np.ndarray, np.ndarray]:
    """Cells of a conv whose time goes by blocks of channels, and doubles for inputs off a multiple of 4."""
    widths = rng.integers(1, 9, (n, 2)) * 8 + np.where(rng.random((n, 2)) < 0.25, rng.integers(1, 8, (n, 2)), 0)
    blocks = np.ceil(widths / block)
    slow = np.where(widths[:, 0] % 4, 2.0, 1.0)
    return widths.astype(np.int64), 3.0 + slow * (blocks[:, 0] * blocks[:, 1] * 5.0)


@pytest.mark.parametrize("block", [4, 8, 16, 32])
def test_the_stairs_are_found(block: int) -> None:
    widths, us = simulated(np.random.default_rng(0), 300, block)
    result = choose_staircase([(widths, {"": us})], cells=300)
    assert (result.block, result.alignment) == (block, 4)


def test_unseen_widths_are_predicted() -> None:
    rng = np.random.default_rng(1)
    widths, us = simulated(rng, 300)
    curve = fit_curve(widths, {"": us * rng.normal(1.0, 0.01, len(us))}, Staircase(16, 4))
    unseen, expected = simulated(rng, 100)
    assert np.abs(curve(unseen) / expected - 1).mean() < 0.03


def test_only_what_makes_a_difference_parts_the_cells() -> None:
    """Inputs off the alignment cost double, outputs off it nothing: so rare outputs are priced by all the others."""
    rng = np.random.default_rng(2)
    widths, us = simulated(rng, 60)
    discriminating_bits = choose_traits(
        [(widths, us * rng.normal(1.0, 0.01, len(us)))], Staircase(16, 4), 16
    ).discriminating_bits
    assert discriminating_bits & 2  # the bit of inputs off the alignment
    assert not discriminating_bits & 8  # and that of outputs
    unseen, expected = simulated(rng, 200)
    errors = {}
    for bits in (discriminating_bits, ALL_BITS):
        curve = fit_curve(widths, {"": us}, Staircase(16, 4), {"": Traits(16, bits)})
        errors[bits] = np.abs(curve(unseen) / expected - 1)[unseen[:, 1] % 4 > 0].mean()
    assert errors[discriminating_bits] < min(0.01, errors[ALL_BITS])


def test_a_class_without_cells_costs_what_the_next_aligned_widths_cost() -> None:
    widths = np.array([[16 * i, 16 * j] for i in range(1, 5) for j in range(1, 5)])
    curve = fit_curve(widths, {"": widths.prod(1) * 0.1}, Staircase(16, 4))
    assert curve(np.array([[29, 32]])) == pytest.approx(curve(np.array([[32, 32]])))


def test_what_runs_at_widths_without_cells_is_told_by_where_the_kernel_runs_elsewhere() -> None:
    """A kernel takes inputs on the alignment, and narrow ones off it at double its cost; here only aligned outputs."""
    staircase = Staircase(16, 4)

    def cells(inputs: tuple[int, ...], outputs: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
        widths = np.array([[x, y] for x in inputs for y in outputs])
        x, blocks = widths[:, 0], np.ceil(widths[:, 1] / 16)
        us = np.where(x % 4 == 0, 1.0, np.where(x < 16, 2.0, np.nan)) * (2.0 + 3.0 * blocks)
        return widths, us

    def joined(*parts: tuple[np.ndarray, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
        return np.concatenate([w for w, _ in parts]), np.concatenate([us for _, us in parts])

    regular = cells((16, 32, 48), (16, 32, 48, 64)), cells((16, 32), (21, 35))
    elsewhere = joined(*regular, cells((13, 21, 35), (19, 21, 35, 48)))
    cells_of_layer = joined(*regular, cells((21, 35), (21, 35, 37)), cells((13,), (48,)))
    traits = choose_traits([cells_of_layer, elsewhere], staircase, 16)
    narrow, expected = cells((13,), (21, 35))
    curve = fit_curve(cells_of_layer[0], {"": cells_of_layer[1]}, staircase, {"": traits})
    assert curve(narrow) == pytest.approx(expected, rel=0.05)
    alone = fit_curve(cells_of_layer[0], {"": cells_of_layer[1]}, staircase)
    assert alone(narrow) == pytest.approx([0.0, 0.0])  # most cells like it are of wide inputs, which it does not take


def test_units_without_widths_are_constant() -> None:
    curve = fit_curve(np.empty((3, 0), np.int64), {"": np.array([4.0, 5.0, 6.0])}, Staircase(16, 4))
    assert curve(np.empty((1, 0), np.int64)) == pytest.approx([5.0], rel=0.1)


def test_kernels_that_come_and_go_with_the_widths_are_told_apart() -> None:
    """A slow kernel for inputs off a multiple of 4, a layout change after outputs off it: few cells of each suffice."""
    rng = np.random.default_rng(2)

    def cells(n: int) -> tuple[np.ndarray, dict[str, np.ndarray]]:
        widths = rng.integers(2, 9, (n, 2)) * 8 + np.where(rng.random((n, 2)) < 0.2, rng.integers(1, 8, (n, 2)), 0)
        blocks = np.ceil(widths / 16)
        odd = widths % 4 != 0
        fast = 3.0 + 5.0 * blocks.prod(1)
        slow = 4.0 + 0.05 * widths.prod(1)
        return widths, {
            "fast": np.where(odd[:, 0], np.nan, fast),
            "slow": np.where(odd[:, 0], slow, np.nan),
            "reorder": np.where(odd[:, 1], 1.0 + 0.3 * widths[:, 1], np.nan),
        }

    widths, us = cells(80)
    curve = fit_curve(widths, us, Staircase(16, 4), {"slow": Traits(1)})
    unseen, expected = cells(200)
    total = np.nansum(list(expected.values()), 0)
    assert np.abs(curve(unseen) / total - 1).mean() < 0.02


def test_disturbed_cells_do_not_bend_the_curve() -> None:
    rng = np.random.default_rng(3)
    widths, us = simulated(rng, 300)
    noisy_us = us * np.where(rng.random(300) < 0.1, 1.5, 1.0)
    curve = fit_curve(widths, {"": noisy_us}, Staircase(16, 4))
    regular = (widths % 4 == 0).all(1)
    assert np.abs(curve(widths[regular]) / us[regular] - 1).mean() < 0.02
