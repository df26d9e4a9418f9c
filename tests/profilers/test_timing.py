from __future__ import annotations

from math import comb

import numpy as np
import pytest

from models import plain
from netadapt_onnx.profilers.agent import Rounds, low_mean, median_interval
from netadapt_onnx.profilers.statistics import signed_rank_interval
from netadapt_onnx.profilers.timing import TimingPlan, measure, ratio
from simulated_device import INTERFERENCE, SimulatedDevice, Slowness, quiet

INPUTS = {"image": np.random.default_rng(0).standard_normal((1, 3, 16, 16)).astype(np.float32)}


@pytest.mark.parametrize(
    ("n", "skipped"), [(3, 0), (6, 0), (8, 0), (9, 1), (12, 2), (15, 3), (17, 4), (65, 24), (1001, 469), (5000, 2430)]
)
def test_median_interval_is_the_sign_tests(n: int, skipped: int) -> None:
    """Known order statistics for 95% (e.g. Conover, Practical Nonparametric Statistics, table A3); of thousands
    by the binomial distribution."""
    samples = np.random.default_rng(n).permutation(n).astype(float)
    assert median_interval(samples) == (skipped, n - 1 - skipped)


@pytest.mark.parametrize("n", [150, 201, 1000, 5000])
def test_median_interval_of_many_samples_has_95_percent(n: int) -> None:
    low, high = median_interval(np.arange(n, dtype=float))
    assert low + high == n - 1
    outside = 2 * sum(comb(n, i) for i in range(int(low) + 1))
    assert 0.035 < outside / 2**n <= 0.05


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
    rounds.settle(0.0, lambda _: False, 20, 50)
    assert rounds.times_ms.shape == (1, 3)
    rounds.settle(100.0, lambda _: False, 6, 12)
    assert rounds.times_ms.shape == (1, 12)
    rounds = Rounds([lambda: None])
    rounds.settle(100.0, lambda times: times.shape[1] >= 10, 6, None)
    assert 10 <= rounds.times_ms.shape[1] < 20


def test_medians_lie_within_their_intervals() -> None:
    for timing in measure([plain((8,)), plain((16, 16))], INPUTS, plan=TimingPlan(sessions=6, time_cap_s=0.5)):
        assert timing.sessions == 6
        assert 0 < timing.ci95[0] <= timing.median_ms <= timing.ci95[1]


@pytest.mark.parametrize("slowness", [quiet, *INTERFERENCE])
def test_ratio_sees_a_model_many_times_larger(slowness: Slowness) -> None:
    large, small = plain((64, 64, 64)), plain((8, 8))
    device = SimulatedDevice(slowness, others=1.5)
    result = ratio(large, small, INPUTS, plan=TimingPlan(sessions=9, time_cap_s=0.5), device=device)
    assert 1.5 < result.ci95[0] <= result.median <= result.ci95[1]
    assert result.model.median_ms > result.reference.median_ms
    assert (result.others, result.cores) == (1.5, 2)


@pytest.mark.parametrize("cap_s", [-1.0, 0.0, 0.2])
def test_times_come_back_whatever_is_left_of_the_time(cap_s: float) -> None:
    large, small = plain((32, 32)), plain((8, 8))
    for undisturbed in (False, True):
        result = ratio(large, small, INPUTS, plan=TimingPlan(sessions=3, time_cap_s=cap_s, undisturbed=undisturbed))
        assert result.median > 0
        assert len(result.sessions_ms[0]) == 3
    assert all(
        timing.median_ms > 0
        for timing in measure([large, small], INPUTS, plan=TimingPlan(sessions=3, time_cap_s=cap_s))
    )


@pytest.mark.parametrize(
    ("n", "confidence", "critical"), [(10, 0.95, 8), (15, 0.95, 25), (20, 0.95, 52), (20, 0.99, 37)]
)
def test_signed_rank_interval_is_wilcoxons(n: int, confidence: float, critical: int) -> None:
    """Published critical values of the signed-rank sum, two-sided."""
    samples = np.random.default_rng(n).standard_normal(n)
    means = sorted((a + b) / 2 for i, a in enumerate(samples) for b in samples[i:])
    assert signed_rank_interval(samples, confidence) == pytest.approx((means[critical], means[-1 - critical]))
    assert signed_rank_interval(samples[:3], confidence) == pytest.approx((min(samples[:3]), max(samples[:3])))
