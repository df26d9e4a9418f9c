"""Whole-model times that hold on a busy machine: medians over fresh sessions that run in turn (`agent.py`)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import onnx

from netadapt_onnx.common.progress import steps
from netadapt_onnx.graph.runtime import Arrays
from netadapt_onnx.profilers.agent import median_interval
from netadapt_onnx.profilers.device import REFERENCE, Device, Job, Order, Until, measure_on
from netadapt_onnx.profilers.devices.local import LocalDevice
from netadapt_onnx.profilers.execution import CPU, Execution
from netadapt_onnx.profilers.statistics import Disturbance, crowd, of_records

SESSIONS = 9
# Times are precise enough after so many rounds at the earliest.
LEAST_ROUNDS = 30


@dataclass(frozen=True)
class Timing:
    """Median over fresh sessions of each session's median, and its distribution-free 95% interval, in ms."""

    median_ms: float
    ci95: tuple[float, float]
    sessions: int


@dataclass(frozen=True)
class Ratio:
    """A model's time relative to the reference's: median over pairs of fresh sessions and its interval.

    The interval is one of 95% unless `ratio` was asked for undisturbed times with another confidence.
    """

    median: float
    ci95: tuple[float, float]
    model: Timing
    reference: Timing
    # Each session's time in ms, the model's and the reference's; pairs stand at equal places.
    sessions_ms: tuple[tuple[float, ...], tuple[float, ...]] = ((), ())
    # Likewise the mean of each session's fastest runs, which disturbances hardly reach; empty where nobody knows.
    undisturbed_ms: tuple[tuple[float, ...], tuple[float, ...]] = ((), ())
    # Processors, of `cores`, that other processes kept busy meanwhile; None where the device does not tell.
    others: float | None = None
    cores: int | None = None

    @property
    def differs(self) -> bool:
        """Whether the interval tells the two apart."""
        return not self.ci95[0] <= 1 <= self.ci95[1]


def measure(
    models: Sequence[onnx.ModelProto],
    inputs: Arrays,
    execution: Execution = CPU,
    *,
    sessions: int = SESSIONS,
    time_cap_s: float = 20.0,
    precision: float = 0.01,
    seed: int = 0,
    device: Device | None = None,
    on_busy: Callable[[Disturbance], None] | None = None,
) -> tuple[Timing, ...]:
    """Time models against each other, each in `sessions` fresh sessions, all in turn, on `device` (None: here).

    Goes on until every median's interval is within +-`precision`, or `time_cap_s` of running is used up. `on_busy` is
    told where something disturbed the device.
    """
    job = timing_job(range(len(models)), sessions, time_cap_s, precision=precision, seed=seed)
    order = Order(dict(enumerate(models)), inputs, execution, (job,))
    with steps("measuring", bound_s=time_cap_s):
        found = measure_on(device or LocalDevice(), order)
    disturbance = of_records(list(found.values()))
    if on_busy is not None and disturbance.busy:
        on_busy(disturbance)
    return tuple(timing(found[i].median_ms) for i in range(len(models)))


def timing_job(
    models: Sequence[int], sessions: int, seconds: float | None, *, precision: float = 0.01, seed: int = 0
) -> Job:
    """The job of `measure`."""
    return Job(tuple(models), None, False, sessions, "each", precision, (LEAST_ROUNDS, None), seconds, seed)


def ratio(
    model: onnx.ModelProto,
    reference: onnx.ModelProto,
    inputs: Arrays,
    execution: Execution = CPU,
    *,
    sessions: int = SESSIONS,
    time_cap_s: float = 20.0,
    precision: float = 0.01,
    undisturbed: bool = False,
    confidence: float = 0.95,
    seed: int = 0,
    device: Device | None = None,
) -> Ratio:
    """Time `model` relative to `reference`, in pairs of fresh sessions that take turns, on `device` (None: here).

    One number is made of a session's times: the median, or if `undisturbed` the mean of the fastest tenth, which
    disturbances hardly reach. Ratios of those are symmetric, and their centre's interval, of `confidence`, is narrower.
    """
    until: Until = "undisturbed" if undisturbed else "ratio"
    job = Job((0,), REFERENCE, False, sessions, until, precision, (LEAST_ROUNDS, None), time_cap_s, seed)
    order = Order({0: model, REFERENCE: reference}, inputs, execution, (job,))
    with steps("measuring", bound_s=time_cap_s):
        found = measure_on(device or LocalDevice(), order)[0]
    fastest = (tuple(found.ms), tuple(found.reference_ms))
    known: dict[str, Any] = {"undisturbed_ms": fastest, "others": found.others, "cores": found.cores}
    if not undisturbed:
        return replace(of_pairs(found.median_ms, found.reference_median_ms), **known)
    interval = signed_rank_interval(np.divide(*fastest), confidence)
    return replace(of_pairs(*fastest), ci95=interval, **known)


def pooled(measurements: Sequence[Ratio]) -> Ratio:
    """Several measurements of one model as one, every pair of sessions counting alike.

    On a shared machine two measurements differ by more than either's interval says: what disturbs one lasts.
    """
    times, others = ([t for m in measurements for t in m.sessions_ms[side]] for side in (0, 1))
    fastest, beside = (tuple(t for m in measurements for t in m.undisturbed_ms[side]) for side in (0, 1))
    if len(beside) != len(others):  # one from a run of an older version does not tell
        fastest = beside = ()
    busy, cores = crowd(measurements)
    return replace(of_pairs(times, others), undisturbed_ms=(fastest, beside), others=busy, cores=cores)


def of_pairs(times: Sequence[float], others: Sequence[float]) -> Ratio:
    """A model's numbers relative to the reference's; pairs stand at equal places."""
    ratios = np.array(times) / np.array(others)
    both = (tuple(times), tuple(others))
    return Ratio(float(np.median(ratios)), median_interval(ratios), timing(times), timing(others), both)


def signed_rank_interval(samples: np.ndarray, confidence: float) -> tuple[float, float]:
    """Interval of the centre of symmetric samples, from the means of all pairs (Hodges and Lehmann, 1963).

    Those cut off at either end are as many as Wilcoxon's signed-rank sum falls short of with half the rest of
    `confidence`; with too few samples for it, none. For 20 samples it is a third narrower than `median_interval`.
    """
    n = len(samples)
    i, j = np.triu_indices(n)
    means = np.sort((samples[i] + samples[j]) / 2)
    ways = np.ones(1)
    for rank in range(1, n + 1):  # of every sum of ranks
        ways = np.convolve(ways, [1.0, *[0.0] * (rank - 1), 1.0])
    cut = max(0, int(np.sum(np.cumsum(ways) / 2.0**n <= (1 - confidence) / 2)) - 1)
    return float(means[cut]), float(means[-1 - cut])


def timing(times: Sequence[float]) -> Timing:
    """One number of each session (ms) as a whole."""
    return Timing(float(np.median(times)), median_interval(np.array(times)), len(times))
