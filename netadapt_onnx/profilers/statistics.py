"""What times of sessions say: medians and intervals, one model relative to another, and how disturbed a device was.

The median's interval itself, `median_interval`, is in `agent.py`, which has to run without the rest of the package.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from netadapt_onnx.profilers.agent import median_interval
from netadapt_onnx.profilers.records import MeasuredModel

# Sessions of one model whose times lie further apart than this are those of a busy machine.
SPREAD = 0.25
# Other processes that keep more than this share of the processors busy leave none to measure on.
CROWDED = 0.6
# The share of sessions at either end that says nothing of the spread: single sessions may be off.
TAIL = 0.1
# Huber's weights begin to fall at so many median errors.
HUBER = 1.5


@dataclass(frozen=True)
class Timing:
    """Median over fresh sessions of each session's median, and its distribution-free 95% interval, in ms."""

    median_ms: float
    ci95: tuple[float, float]
    sessions: int


@dataclass(frozen=True)
class Ratio:
    """A model's time relative to a reference's: the median over pairs of fresh sessions, and its interval.

    The interval is one of 95% unless a `TimingPlan` for undisturbed times has another confidence.

    Attributes:
        median: the model's time divided by the reference's.
        ci95: the interval of `median`.
        model: the model's own time.
        reference: the reference's own time.
        sessions_ms: each session's time, the model's and the reference's; pairs stand at equal places.
        undisturbed_ms: the mean of each session's fastest runs, which disturbances hardly reach, in the same order;
            empty where the measurement is of an older version, which did not keep it.
        others: how many processors, of `cores`, other processes kept busy meanwhile; None if the device cannot tell.
        cores: how many processors the device has.
    """

    median: float
    ci95: tuple[float, float]
    model: Timing
    reference: Timing
    sessions_ms: tuple[tuple[float, ...], tuple[float, ...]] = ((), ())
    undisturbed_ms: tuple[tuple[float, ...], tuple[float, ...]] = ((), ())
    others: float | None = None
    cores: int | None = None

    @property
    def differs(self) -> bool:
        """Whether the interval excludes that both take the same time."""
        return not self.ci95[0] <= 1 <= self.ci95[1]


def timing_of_sessions(times_ms: Sequence[float]) -> Timing:
    """Summarise one model's times, one per session, in ms."""
    return Timing(float(np.median(times_ms)), median_interval(np.array(times_ms)), len(times_ms))


def ratio_of_pairs(times_ms: Sequence[float], reference_ms: Sequence[float]) -> Ratio:
    """Summarise a model's times relative to the reference's; pairs of sessions stand at equal places."""
    ratios = np.array(times_ms) / np.array(reference_ms)
    both = (tuple(times_ms), tuple(reference_ms))
    timings = timing_of_sessions(times_ms), timing_of_sessions(reference_ms)
    return Ratio(float(np.median(ratios)), median_interval(ratios), *timings, both)


def pool_ratios(measurements: Sequence[Ratio]) -> Ratio:
    """Join several measurements of one model; every pair of sessions counts alike.

    On a shared machine two measurements differ by more than either's interval says: what disturbs one lasts.
    """
    times, reference = ([t for m in measurements for t in m.sessions_ms[side]] for side in (0, 1))
    fastest, reference_fastest = (tuple(t for m in measurements for t in m.undisturbed_ms[side]) for side in (0, 1))
    if len(reference_fastest) != len(reference):  # one of them is of an older version, which did not keep these
        fastest = reference_fastest = ()
    others, cores = mean_load((m.others, m.cores) for m in measurements)
    pool = ratio_of_pairs(times, reference)
    return replace(pool, undisturbed_ms=(fastest, reference_fastest), others=others, cores=cores)


def reference_fastest_ms(measurement: Ratio) -> float:
    """The time of the reference's fastest runs, as the median over its sessions."""
    return float(np.median(measurement.undisturbed_ms[1] or measurement.reference.median_ms))


def interruption(measurement: Ratio) -> float:
    """The share by which the reference's median run took longer than its fastest, as the median over its sessions."""
    times, fastest = map(np.asarray, (measurement.sessions_ms[1], measurement.undisturbed_ms[1]))
    return float(np.median(times / fastest)) - 1 if fastest.size else 0.0


def interdecile_ratio(times: Sequence[float] | np.ndarray) -> float:
    """The ninth decile of one model's times over the first, less 1; 0 without any times."""
    if not len(times):
        return 0.0
    low, high = np.quantile(times, [TAIL, 1 - TAIL])
    return float(high / low - 1)


def interdecile_range(times: Sequence[float]) -> float:
    """The difference between the ninth and the first decile relative to the median; 0 of fewer than two times."""
    if len(times) < 2:
        return 0.0
    low, middle, high = np.quantile(np.asarray(times, np.float64), (TAIL, 0.5, 1 - TAIL))
    return float((high - low) / max(middle, 1e-9))


def signed_rank_interval(samples: np.ndarray, confidence: float) -> tuple[float, float]:
    """The interval of the centre of symmetric samples, from the means of all pairs (Hodges and Lehmann, 1963).

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


def kendall(a: np.ndarray, b: np.ndarray) -> float:
    """Rank correlation tau-b (Kendall 1945): 1 for the same order, -1 for the opposite; ties count as neither."""
    i, j = np.triu_indices(len(a), 1)
    x, y = np.sign(a[i] - a[j]), np.sign(b[i] - b[j])
    pairs = float(np.sqrt((x != 0).sum() * (y != 0).sum()))
    return float((x * y).sum() / pairs) if pairs else 1.0


def huber_weights(errors: np.ndarray) -> np.ndarray:
    """Weights with which outliers count by their distance and not its square (Huber 1964).

    The scale is the median error. `errors` (n,) are absolute; the weights (n,) are at most 1.
    """
    scale = HUBER * max(1e-6, float(np.median(errors)))
    return np.asarray(np.minimum(1.0, scale / np.maximum(errors, 1e-12)))


@dataclass(frozen=True)
class Disturbance:
    """How disturbed a device was while it measured: what else ran there, and how much one model's time varied.

    `spread`: the interdecile range of one model's sessions relative to their median. `others`: how many processors, of
    `cores`, other processes kept busy; None if the device cannot tell.
    """

    spread: float = 0.0
    others: float | None = None
    cores: int | None = None

    @property
    def crowded(self) -> bool:
        """Whether other processes leave no processor free."""
        return self.others is not None and self.others > CROWDED * (self.cores or 1)

    @property
    def busy(self) -> bool:
        """Whether results need a quieter machine."""
        return self.spread > SPREAD or self.crowded

    def sentence(self, device: str = "local") -> str:
        """The sentence for users who wait for the results; `device` is a device's name."""
        where, instead = ("this machine", "--device") if device == "local" else (device, "another --device")
        load = f", other processes use {self.others:.1f} processors" if self.crowded else ""
        return f"{where} is busy: times vary by {self.spread:.0%}{load}; results need a quiet machine or {instead}"

    def caution(self, table: str) -> str:
        """The sentence for users of a table that was built meanwhile."""
        load = f", other processes used {self.others:.1f} processors" if self.crowded else ""
        return f"{table} was built on a busy machine: times varied by {self.spread:.0%}{load}; a quiet one tells better"


def disturbance_of_sessions(
    times: Sequence[float], others: float | None = None, cores: int | None = None
) -> Disturbance:
    """The disturbance that one model's times in several sessions show, in whatever unit."""
    return Disturbance(interdecile_range(times), others, cores)


def disturbance_of_records(records: Sequence[MeasuredModel]) -> Disturbance:
    """The disturbance that the uncut model's sessions show; without them, each model's own, the widest of all."""
    reference_ms = [time for record in records for time in record.reference_median_ms]
    sessions = [reference_ms] if reference_ms else [record.median_ms for record in records]
    return Disturbance(
        max(map(interdecile_range, sessions), default=0.0), *mean_load((r.others, r.cores) for r in records)
    )


def disturbance_of_ratio(measurement: Ratio) -> Disturbance:
    """The disturbance that the reference's sessions of a comparison show."""
    return disturbance_of_sessions(measurement.sessions_ms[1], measurement.others, measurement.cores)


def mean_load(loads: Iterable[tuple[float | None, int | None]]) -> tuple[float | None, int | None]:
    """How many processors other processes kept busy, on average, and of how many; None where no record says.

    `loads`: of each record, how many they kept busy (None: it does not say), and of how many.
    """
    counts = [(others, cores) for others, cores in loads if others is not None]
    return (float(np.mean([others for others, _ in counts])), counts[0][1]) if counts else (None, None)
