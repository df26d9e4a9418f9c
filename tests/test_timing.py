from __future__ import annotations

import numpy as np
import pytest

from models import plain
from netadapt_onnx.profilers.timing import Rounds, low_mean, measure, median_interval, ratio

INPUTS = {"image": np.random.default_rng(0).standard_normal((1, 3, 16, 16)).astype(np.float32)}


@pytest.mark.parametrize(("n", "skipped"), [(3, 0), (6, 0), (8, 0), (9, 1), (12, 2), (15, 3), (17, 4)])
def test_median_interval_is_the_sign_tests(n: int, skipped: int) -> None:
    """Known order statistics for 95% (e.g. Conover, Practical Nonparametric Statistics, table A3)."""
    samples = np.random.default_rng(n).permutation(n).astype(float)
    assert median_interval(samples) == (skipped, n - 1 - skipped)


def test_low_mean_ignores_disturbed_runs() -> None:
    times = np.full((2, 100), 1.0)
    times[1, ::2] = 5.0
    assert low_mean(times) == pytest.approx([1.0, 1.0])


def test_every_session_runs_once_a_round() -> None:
    calls = [0, 0, 0]

    def call(i: int) -> None:
        calls[i] += 1

    rounds = Rounds([lambda i=i: call(i) for i in range(3)])  # type: ignore[misc]
    before = list(calls)
    rounds.go(5)
    assert rounds.times_ms.shape == (3, 5)
    assert [b - a for a, b in zip(before, calls, strict=True)] == [10, 10, 10]  # short runs are warmed up first


def test_rounds_end_when_time_is_up_or_enough() -> None:
    rounds = Rounds([lambda: None])
    rounds.settle(0.0, fewest=3)
    assert rounds.times_ms.shape == (1, 3)
    rounds.settle(100.0, most=12, precision=0.0)
    assert rounds.times_ms.shape == (1, 12)


def test_medians_lie_within_their_intervals() -> None:
    for timing in measure([plain((8,)), plain((16, 16))], INPUTS, sessions=6, time_cap_s=0.5):
        assert timing.sessions == 6
        assert 0 < timing.ci95[0] <= timing.median_ms <= timing.ci95[1]


def test_ratio_sees_a_model_many_times_larger() -> None:
    large, small = plain((64, 64, 64)), plain((8, 8))
    found = ratio(large, small, INPUTS, sessions=3, time_cap_s=0.5)
    assert 1.5 < found.ci95[0] <= found.median <= found.ci95[1]
    assert found.model.median_ms > found.reference.median_ms
