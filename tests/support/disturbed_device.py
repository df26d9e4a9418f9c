"""A simulated device on a simulated clock, quiet or disturbed: what `ratio` would measure on it, run by run."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from netadapt_onnx.api.adapt import adapt
from netadapt_onnx.profilers.agent import low_mean
from netadapt_onnx.profilers.statistics import Ratio, Timing, ratio_of_pairs
from netadapt_onnx.profilers.table.staircase import Staircase
from netadapt_onnx.profilers.timing import TimingPlan
from netadapt_onnx.search import tables
from netadapt_onnx.search.budget_check import measurements
from netadapt_onnx.search.result import AdaptResult
from search_cases import FAST

ROUNDS = 60
# Times of a run, in ms: (sessions, rounds, the model and the original). `seconds` is when each round begins.
Disturb = Callable[[np.random.Generator, np.ndarray, np.ndarray], np.ndarray]


def quiet(_: np.random.Generator, __: np.ndarray, times: np.ndarray) -> np.ndarray:
    """Nothing but the noise of any machine."""
    return times


def bursts(_: np.random.Generator, seconds: np.ndarray, times: np.ndarray) -> np.ndarray:
    """For 9 of every 25 s everything takes twice as long, small models 2.4 times."""
    slow = (seconds % 25 < 9)[None, :, None] * np.array([1.4, 1.0])
    return times * (1 + slow)


def drift(_: np.random.Generator, seconds: np.ndarray, times: np.ndarray) -> np.ndarray:
    """Ever slower: twice as slow after 100 s."""
    return times * (1 + seconds[None, :, None] / 100)


def slow_sessions(rng: np.random.Generator, _: np.ndarray, times: np.ndarray) -> np.ndarray:
    """One session in three is slow from its start to its end."""
    slow = rng.random((len(times), 1, 2)) < 1 / 3
    return times * np.where(slow, 1.8, 1.0)


def half_speed(_: np.random.Generator, seconds: np.ndarray, times: np.ndarray) -> np.ndarray:
    """Everything twice as slow from 15 s on, small models a little more."""
    return times * np.where(seconds[None, :, None] > 15, [2.1, 2.0], 1.0)


def crowded(rng: np.random.Generator, _: np.ndarray, times: np.ndarray) -> np.ndarray:
    """Other processes take the core for up to 12 ms in three runs of four; long runs are hit more often."""
    hit = rng.random(times.shape) < 0.75 * np.sqrt(times / times.max())
    return times + hit * rng.uniform(2, 12, times.shape)


def hopeless(rng: np.random.Generator, _: np.ndarray, times: np.ndarray) -> np.ndarray:
    """Every session has a speed of its own."""
    return times * rng.uniform(1, 3, (len(times), 1, 2))


DISTURBANCES: dict[str, Disturb] = {
    f.__name__: f for f in (quiet, bursts, drift, slow_sessions, half_speed, crowded, hopeless)
}


@dataclass
class DisturbedDevice:
    """Latency grows with the weights, `bias` times what the table says; the original takes 10 ms when it is quiet."""

    disturb: Disturb
    seed: int = 0
    bias: float = 1.0
    staircase: Staircase = field(default_factory=lambda: Staircase(16, 1))
    seconds: float = 0.0
    measured: int = 0
    name: str = "local"

    def __post_init__(self) -> None:
        self._rng = np.random.default_rng(self.seed)

    def predict(self, shapes: dict[str, tuple[int, ...]]) -> float:
        """The table's."""
        return sum(float(np.prod(s)) for name, s in shapes.items() if name.endswith(".weight")) / 1000

    @property
    def latency_ms(self) -> Timing:
        """The original's, as measured with the table, in a quiet hour."""
        return Timing(10.0, (9.9, 10.1), 9)

    def share(self, proto: onnx.ModelProto, reference: onnx.ModelProto) -> float:
        """What a model really takes of the original's time."""
        small, dense = (
            sum(float(np.prod(t.dims)) for t in p.graph.initializer if t.name.endswith(".weight"))
            for p in (proto, reference)
        )
        return self.bias * small / dense if small < dense else 1.0

    def ratio(
        self, proto: onnx.ModelProto, reference: onnx.ModelProto, _: Any, __: Any, plan: TimingPlan, **___: Any
    ) -> Ratio:
        sessions = plan.sessions
        """Both in turn, in so many fresh sessions each, as the agent does it."""
        self.measured += 1
        quiet_ms = np.array([10 * self.share(proto, reference), 10.0])
        noise = self._rng.normal(1, 0.01, (sessions, 1, 2)) * (1 + self._rng.exponential(0.02, (sessions, ROUNDS, 2)))
        round_s = quiet_ms.sum() * sessions / 1000
        began = self.seconds + round_s * np.arange(ROUNDS)
        times = self.disturb(self._rng, began, quiet_ms * noise)
        self.seconds += round_s * ROUNDS
        medians, fastest = np.median(times, 1).T, low_mean(times.transpose(0, 2, 1)).T
        measured = ratio_of_pairs(medians[0].tolist(), medians[1].tolist())
        others = 1.9 if self.disturb in (crowded, hopeless) else 0.1
        undisturbed_ms = (tuple(fastest[0].tolist()), tuple(fastest[1].tolist()))
        return replace(measured, undisturbed_ms=undisturbed_ms, others=others, cores=2)


LIMIT = 0.5  # of the original's latency


def size(proto: onnx.ModelProto) -> float:
    """A stand-in for accuracy, as fast as can be."""
    return sum(float(np.prod(t.dims)) for t in proto.graph.initializer)


def searched(model: Path, run: Path, device: DisturbedDevice, patch: pytest.MonkeyPatch, **more: Any) -> AdaptResult:
    """The result of a quick search whose table and measurements are this device's."""
    patch.setattr(tables, "built_table", lambda *_: device)
    patch.setattr(measurements, "ratio", device.ratio)
    options = FAST | {"evaluate": size, "data": None, "budget": f"latency={LIMIT}x"} | more
    return adapt(model, options.pop("data"), options.pop("budget"), run, **options)
