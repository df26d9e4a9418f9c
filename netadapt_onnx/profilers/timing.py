"""Whole-model times that hold on a busy machine: fresh sessions, run in turn, in rounds of random order.

Machines change speed within tenths of a second (a neighbour on the sibling thread: 0.55 or 0.65 ms for the same model).
Models timed one after the other then differ by where the noise fell; models timed in turn share it.
"""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from math import comb
from typing import Any

import numpy as np
import onnx

from netadapt_onnx.profilers.session import CPU, Execution, open_session
from netadapt_onnx.runtime import Arrays, run

SESSIONS = 9
# Sessions that live at the same time may hold this much in weights.
SESSION_BYTES = 1 << 30
# The share of runs that is taken for undisturbed, on a machine with three busy processes a core.
UNDISTURBED = 0.1


@dataclass(frozen=True)
class Timing:
    """Median over fresh sessions of each session's median, and its distribution-free 95% interval, in ms."""

    median_ms: float
    ci95: tuple[float, float]
    sessions: int


@dataclass(frozen=True)
class Ratio:
    """A model's time relative to the reference's: median over pairs of fresh sessions and its 95% interval."""

    median: float
    ci95: tuple[float, float]
    model: Timing
    reference: Timing


def measure(
    models: Sequence[onnx.ModelProto],
    inputs: Arrays,
    execution: Execution = CPU,
    *,
    sessions: int = SESSIONS,
    time_cap_s: float = 20.0,
    precision: float = 0.01,
    seed: int = 0,
) -> tuple[Timing, ...]:
    """Time models against each other, each in `sessions` fresh sessions, all in turn.

    Goes on until every median's interval is within +-`precision`, or `time_cap_s` of running is used up.
    """

    def settled(medians: np.ndarray) -> bool:
        return all(_within(row, precision) for row in medians)

    medians = _session_medians(models, inputs, execution, sessions, time_cap_s, settled, seed)
    return tuple(_timing(row) for row in medians)


def ratio(
    model: onnx.ModelProto,
    reference: onnx.ModelProto,
    inputs: Arrays,
    execution: Execution = CPU,
    *,
    sessions: int = SESSIONS,
    time_cap_s: float = 20.0,
    precision: float = 0.01,
    seed: int = 0,
) -> Ratio:
    """Time `model` relative to `reference`, in pairs of fresh sessions that take turns."""

    def settled(medians: np.ndarray) -> bool:
        return _within(medians[0] / medians[1], precision)

    medians = _session_medians([model, reference], inputs, execution, sessions, time_cap_s, settled, seed)
    ratios = medians[0] / medians[1]
    return Ratio(float(np.median(ratios)), median_interval(ratios), _timing(medians[0]), _timing(medians[1]))


def median_interval(samples: np.ndarray) -> tuple[float, float]:
    """95% interval of the median from order statistics; with fewer than six samples, their range.

    Sign test: outside the k+1-th smallest and largest of n lies the median with P = 2 * sum(C(n, i), i <= k) / 2^n.
    """
    ordered = np.sort(np.asarray(samples, np.float64))
    n = len(ordered)
    tails = np.cumsum([comb(n, i) for i in range(n // 2)]) * 2.0 ** (1 - n)
    k = max(0, int(np.sum(tails <= 0.05)) - 1)
    return float(ordered[k]), float(ordered[n - 1 - k])


def low_mean(times: np.ndarray, share: float = UNDISTURBED) -> np.ndarray[Any, Any]:
    """Mean of the fastest `share` along the last axis: what the model takes when nothing disturbs it.

    Fresh sessions of one model agree in it to 0.3-0.6% on a machine where their medians differ by 1.2-1.7%.
    """
    count = max(1, round(times.shape[-1] * share))
    kept: np.ndarray[Any, Any] = np.sort(times, -1)[..., :count].mean(-1)
    return kept


class Rounds:
    """Sessions that run in turn: each round runs every one of them once, in a random order.

    Short runs are preceded by one that is not timed: the others have pushed the model out of the cache.
    """

    def __init__(self, calls: Sequence[Callable[[], object]], seed: int = 0) -> None:
        self._calls = list(calls)
        self._rng = np.random.default_rng(seed)
        self._times: list[np.ndarray] = []
        with undisturbed():
            for call in self._calls:
                call()
            started = time.perf_counter()
            for call in self._calls:
                call()
            self.round_s = time.perf_counter() - started
        self._warm = self.round_s / max(1, len(self._calls)) < 0.02
        self.round_s *= 2 if self._warm else 1

    def go(self, rounds: int) -> None:
        """Run this many more rounds."""
        clock = time.perf_counter_ns
        with undisturbed():
            for _ in range(rounds):
                row = np.empty(len(self._calls))
                for i in self._rng.permutation(len(self._calls)):
                    call = self._calls[i]
                    if self._warm:
                        call()
                    started = clock()
                    call()
                    row[i] = (clock() - started) / 1e6
                self._times.append(row)

    def settle(self, seconds: float, fewest: int = 3, most: int = 50, precision: float = 0.005) -> None:
        """Run until both halves of the rounds agree on most sessions' undisturbed times, or time or rounds are up."""
        deadline = time.perf_counter() + seconds
        while (done := len(self._times)) < most:
            chunk = min(5, most - done)
            if done >= fewest and time.perf_counter() + chunk * self.round_s > deadline:
                break
            if done >= 20 and done % 10 == 0 and self._halves_differ() < precision:
                break
            self.go(chunk if done >= fewest else min(fewest - done, chunk))

    def _halves_differ(self) -> float:
        times = self.times_ms
        halves = low_mean(times[:, ::2]), low_mean(times[:, 1::2])
        return float(np.quantile(np.abs(halves[0] / halves[1] - 1), 0.8))

    @property
    def times_ms(self) -> np.ndarray[Any, Any]:
        """(sessions, rounds)."""
        return np.stack(self._times, 1)


@contextmanager
def undisturbed() -> Iterator[None]:
    """No garbage collection while a clock runs."""
    was = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was:
            gc.enable()


def caller(model: onnx.ModelProto, inputs: Arrays, execution: Execution = CPU) -> Callable[[], object]:
    """A fresh session as a function that runs it once. Raises NetadaptError if it cannot run."""
    session = open_session(model, execution)
    run(session, inputs)
    return lambda: session.run(None, inputs)


def _session_medians(
    models: Sequence[onnx.ModelProto],
    inputs: Arrays,
    execution: Execution,
    sessions: int,
    time_cap_s: float,
    settled: Callable[[np.ndarray], bool],
    seed: int,
) -> np.ndarray[Any, Any]:
    """(models, sessions) medians in ms. Sessions are opened in waves that fit into memory."""
    sessions = min(sessions, max(3, int(time_cap_s / (6 * _first_s(models, inputs, execution)))))
    together = max(1, min(sessions, SESSION_BYTES // max(1, sum(m.ByteSize() for m in models))))
    waves = -(-sessions // together)
    columns: list[np.ndarray] = []
    for wave in range(waves):
        count = min(together, sessions - wave * together)
        rounds = Rounds([caller(m, inputs, execution) for _ in range(count) for m in models], seed + wave)
        deadline = time.perf_counter() + time_cap_s / waves
        while True:
            rounds.go(3)
            medians = np.median(rounds.times_ms, 1).reshape(count, len(models)).T
            over = time.perf_counter() + 3 * rounds.round_s > deadline
            if over or (rounds.times_ms.shape[1] >= 30 and settled(medians)):
                break
        columns.append(medians)
    return np.concatenate(columns, 1)


def _first_s(models: Sequence[onnx.ModelProto], inputs: Arrays, execution: Execution) -> float:
    """Seconds that one run of each model takes, roughly: so slow models get fewer sessions."""
    calls = [caller(m, inputs, execution) for m in models]
    started = time.perf_counter()
    for call in calls:
        call()
    return time.perf_counter() - started


def _within(samples: np.ndarray, precision: float) -> bool:
    low, high = median_interval(samples)
    return bool((high - low) / 2 <= precision * np.median(samples))


def _timing(medians: np.ndarray) -> Timing:
    return Timing(float(np.median(medians)), median_interval(medians), len(medians))
