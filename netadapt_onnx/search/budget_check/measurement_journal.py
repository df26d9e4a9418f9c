"""Measurements of one resource in a run's journal: made once, repeated where disturbed, pooled where undisturbed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Literal

import msgspec
import numpy as np
import onnx

from netadapt_onnx.profilers.estimate import Estimate
from netadapt_onnx.profilers.statistics import Disturbance, Ratio, pool_ratios
from netadapt_onnx.search.budget_check.comparison import Comparison
from netadapt_onnx.search.budget_check.measurement import Measurement, with_usual
from netadapt_onnx.search.result import UNDECIDED
from netadapt_onnx.search.run_directory.run import Run

# A measurement that something disturbed is repeated, up to so many in all.
MOST_TRIES = 2
# What the original's fastest runs usually take is this quantile of all measurements: luckier ones are no rule.
USUAL = 0.25

Stage = Literal["searched", "final"]
STAGES: tuple[Stage, ...] = ("searched", "final")


class MeasurementJournal:
    """What a run has measured of one resource.

    Attributes:
        resource: The resource, which the keys of all its measurements begin with.
    """

    def __init__(
        self,
        run: Run,
        resource: str,
        *,
        relative: bool,
        just_before_ms: Sequence[float] = (),
        on_busy: Callable[[Disturbance], None] = lambda disturbance: None,
    ) -> None:
        """Keep measurements of `resource` in the journal of `run`.

        Args:
            run: The run.
            resource: The resource.
            relative: Whether estimates are shares of the original's amount, or amounts.
            just_before_ms: What the original's fastest runs took on the device just before the run began.
            on_busy: Called when something disturbed every try of a measurement.
        """
        self._run = run
        self.resource = resource
        self._relative = relative
        self._just_before_ms = tuple(just_before_ms)
        self._on_busy = on_busy

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
        return [key, *(f"{key}/{n + 1}" for n in range(undecided_count(self._run)))]

    def has_careful(self, stage: Stage, iteration: int) -> bool:
        """Whether a stage's model was ever measured carefully."""
        return any(map(self.has, self._all_careful(stage, iteration)))

    def has(self, key: str) -> bool:
        """Whether this was measured."""
        return self._run.recall(key) is not None

    def measure(self, key: str, compare: Callable[[], Ratio], is_enough: Callable[[Estimate], bool]) -> None:
        """Measure once per `key`, and again where something disturbed the device.

        Args:
            key: What is measured.
            compare: Measures it beside the original.
            is_enough: Whether an estimate will do although the device was disturbed: not all models suffer alike.
        """

        def measurement() -> Measurement:
            usual_ms = self._usual_ms()
            tries: list[Measurement] = []
            while len(tries) < MOST_TRIES:
                tries.append(with_usual(compare(), usual_ms))
                estimate = tries[-1].estimate(relative=self._relative)
                if estimate.quiet:
                    return tries[-1]
                if is_enough(estimate) or self._run.left_s() <= 0:
                    break
            best = min(tries, key=self._disturbance)
            self._on_busy(Disturbance(self._disturbance(best)[1], best.others, best.cores))
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
        # The first runs may have turned out to be slower than usual.
        usual_ms = min(m for one in measurements for m in (one.usual_ms, one.reference_fastest_ms) if m is not None)
        measurements = [with_usual(one, usual_ms) for one in measurements]
        quiet = [one for one in measurements if one.estimate(relative=self._relative).quiet]
        if not quiet:
            return min(measurements, key=self._disturbance)
        return quiet[0] if len(quiet) == 1 else with_usual(pool_ratios(quiet), usual_ms)

    def _disturbance(self, measurement: Measurement) -> tuple[bool, float]:
        estimate = measurement.estimate(relative=self._relative)
        return estimate.crowded, estimate.disturbance

    def _usual_ms(self) -> float | None:
        """What the original's fastest runs usually take, since the run last ended undecided.

        What was measured before does not compare with what is measured after.
        """
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


def undecided_count(run: Run) -> int:
    """How often a run has ended because a device was too busy to decide."""
    return sum(entry.key.startswith(f"{UNDECIDED}/") for entry in run.entries)


def measure_normalised(
    journal: MeasurementJournal, comparison: Comparison, proto: onnx.ModelProto, reference: onnx.ModelProto
) -> Measurement:
    """The normalised model beside the user's file, measured with care; its median is that of the estimate."""
    journal.measure(
        journal.normalised,
        lambda: comparison.compare(proto, reference, "careful"),
        lambda estimate: estimate.precise,
    )
    measurement = journal.reliable(journal.all_normalised)
    assert measurement is not None
    share = measurement.estimate(relative=True)
    return replace(measurement, median=share.value, ci95=(share.low, share.high))
