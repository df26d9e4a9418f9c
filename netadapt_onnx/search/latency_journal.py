"""Measurements of one resource in a run's journal: made once, repeated where disturbed, pooled where they agree."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from typing import Literal

import msgspec
import numpy as np

from netadapt_onnx.profilers.estimate import Estimate, estimate
from netadapt_onnx.profilers.statistics import Disturbance, Ratio, pool_ratios, reference_fastest_ms
from netadapt_onnx.search.run_directory.run import Run

# A measurement that something disturbed is repeated, up to so many in all.
MOST_TRIES = 2
# What the original's fastest runs usually take is this quantile of all measurements: luckier ones are no rule.
USUAL = 0.25

Stage = Literal["searched", "final"]
STAGES: tuple[Stage, ...] = ("searched", "final")
# Journalled when a run ends undecided; what is measured after it does not compare with what was measured before.
UNDECIDED: Literal["could-not-judge"] = "could-not-judge"


@dataclass(frozen=True)
class Measurement(Ratio):
    """A model beside the original, and what the original's fastest runs usually took in this run until then (ms)."""

    usual_ms: float | None = None

    @property
    def reference_fastest_ms(self) -> float:
        """What the original's fastest runs took meanwhile."""
        return reference_fastest_ms(self)

    def estimate(self, *, relative: bool) -> Estimate:
        """What it says of the model's time: a share of the original's, or ms."""
        return estimate(self, self.usual_ms, relative=relative)


def _with_usual(measurement: Ratio, usual_ms: float | None) -> Measurement:
    return Measurement(**{field.name: getattr(measurement, field.name) for field in fields(Ratio)}, usual_ms=usual_ms)


class LatencyJournal:
    """What a run has measured of `resource`; estimates are shares of the original's time if `relative`, or ms.

    `just_before_ms`: what the original's fastest runs took on the device just before the run began.
    """

    def __init__(self, run: Run, resource: str, *, relative: bool, just_before_ms: Sequence[float] = ()) -> None:
        self._run = run
        self.resource = resource
        self._relative = relative
        self._just_before_ms = tuple(just_before_ms)

    @property
    def smallest(self) -> str:
        """The key of the narrowest model's measurement."""
        return f"{self.resource}/smallest"

    @property
    def normalised(self) -> str:
        """The key of the next measurement of the normalised model beside the file as given."""
        return self.all_normalised[-1]

    @property
    def all_normalised(self) -> list[str]:
        """The keys of all of them."""
        return self._each_time(f"{self.resource}/normalised")

    def brief(self, iteration: int) -> str:
        """The key of the brief measurement of an iteration's model."""
        return f"{self.resource}/brief/{iteration}"

    def careful(self, stage: Stage, iteration: int) -> str:
        """The key of the next careful measurement: another one for each time that the run ended undecided."""
        return self._all_careful(stage, iteration)[-1]

    def careful_so_far(self, stage: Stage, iteration: int) -> list[str]:
        """The keys of a stage's careful measurements and of those before the training, which changes no width."""
        stages = STAGES[: STAGES.index(stage) + 1]
        return [key for one in stages for key in self._all_careful(one, iteration)]

    def _all_careful(self, stage: Stage, iteration: int) -> list[str]:
        return self._each_time(f"{self.resource}/{stage}/{iteration}")

    def _each_time(self, key: str) -> list[str]:
        """A key for every time that the run has ended undecided, and one more."""
        return [key, *(f"{key}/{n + 1}" for n in range(undecided(self._run)))]

    def has_careful(self, stage: Stage, iteration: int) -> bool:
        """Whether a stage's model was ever measured carefully."""
        return any(map(self.has, self._all_careful(stage, iteration)))

    def has(self, key: str) -> bool:
        """Whether this was measured."""
        return self._run.recall(key) is not None

    def measure(
        self,
        key: str,
        ratio: Callable[[], Ratio],
        enough: Callable[[Estimate], bool],
        on_busy: Callable[[Disturbance], None],
    ) -> None:
        """Measure once per `key`; again what something disturbed, unless that is `enough`: not all models suffer alike.

        `on_busy` is told if something disturbed every try.
        """

        def measurement() -> Measurement:
            usual_ms = self._usual_ms()
            tries: list[Measurement] = []
            while len(tries) < MOST_TRIES:
                tries.append(_with_usual(ratio(), usual_ms))
                found = tries[-1].estimate(relative=self._relative)
                if found.quiet:
                    return tries[-1]
                if enough(found) or self._run.left_s() <= 0:
                    break
            best = min(tries, key=self._disturbance)
            on_busy(Disturbance(self._disturbance(best)[1], best.others, best.cores))
            return best

        self._run.once(key, measurement)

    def estimate(self, keys: Sequence[str]) -> Estimate | None:
        """What those of these measurements that were made say together."""
        measurement = self.reliable(keys)
        return None if measurement is None else measurement.estimate(relative=self._relative)

    def reliable(self, keys: Sequence[str]) -> Measurement | None:
        """The measurements that nothing disturbed, as one; if all were disturbed, the one that was least."""
        values = [value for key in keys if (value := self._run.recall(key)) is not None]
        if not values:
            return None
        measurements = [msgspec.convert(value, Measurement) for value in values]
        # What was taken for usual at first may have turned out to be slow.
        usual_ms = min(m for one in measurements for m in (one.usual_ms, one.reference_fastest_ms) if m is not None)
        measurements = [_with_usual(one, usual_ms) for one in measurements]
        quiet = [one for one in measurements if one.estimate(relative=self._relative).quiet]
        if not quiet:
            return min(measurements, key=self._disturbance)
        return quiet[0] if len(quiet) == 1 else _with_usual(pool_ratios(quiet), usual_ms)

    def _disturbance(self, measurement: Measurement) -> tuple[bool, float]:
        found = measurement.estimate(relative=self._relative)
        return found.crowded, found.disturbance

    def _usual_ms(self) -> float | None:
        """What the original's fastest runs usually take, since the run last ended undecided."""
        times = list(self._just_before_ms)
        for entry in self._run.entries:
            if entry.key.startswith(f"{UNDECIDED}/"):
                times = []
            elif is_measurement(entry.key, self.resource):
                times.append(msgspec.convert(entry.value, Measurement).reference_fastest_ms)
        return float(np.quantile(times, USUAL)) if times else None


def is_measurement(key: str, resource: str) -> bool:
    """Whether the journal's `key` is that of a measurement of a model beside the original."""
    name, _, rest = key.partition("/")
    return (
        name == resource
        and not rest.endswith("/refused")
        and rest.partition("/")[0] in ("smallest", "normalised", "brief", *STAGES)
    )


def undecided(run: Run) -> int:
    """How often a run has ended since a device was too busy to tell."""
    return sum(entry.key.startswith(f"{UNDECIDED}/") for entry in run.entries)
