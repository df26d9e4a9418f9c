"""Measurements of a model beside the original, in sessions or by a function, each journalled before it is used.

They are made once per key, repeated where something disturbed them, and pooled where nothing did.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from typing import Literal, Protocol

import msgspec
import numpy as np
import onnx

from netadapt_onnx.common.progress import stage
from netadapt_onnx.graph.runtime import Arrays
from netadapt_onnx.profilers.device import Device
from netadapt_onnx.profilers.estimate import Estimate, estimate
from netadapt_onnx.profilers.execution import Execution
from netadapt_onnx.profilers.statistics import Disturbance, Ratio, pool_ratios, ratio_of_pairs, reference_fastest_ms
from netadapt_onnx.profilers.timing import TimingPlan, ratio
from netadapt_onnx.search.result import UNDECIDED, Latency
from netadapt_onnx.search.run_directory.run import Run

# An accepted model is measured briefly; the one that is to meet the budget until its interval is narrow.
BRIEF_S, BRIEF_SESSIONS = 3.0, 5
CAREFUL_S, CAREFUL_SESSIONS = 20.0, 21
# The same in calls of a function: fewer for a brief measurement, and two if they agree to the last digit. A single pair
# would have no interval, and its noise would steer.
CAREFUL_PAIRS, BRIEF_PAIRS = 5, 3

Effort = Literal["brief", "careful"]
# The resource of a model: mJ, or a unit of the user's own.
Value = Callable[[onnx.ModelProto], float]


class Comparison(Protocol):
    """Measures a model beside a reference, in turns."""

    @property
    def device(self) -> Device | None:
        """The device that measures; None: there is none, or it is this machine."""
        ...

    def compare(self, proto: onnx.ModelProto, reference: onnx.ModelProto, effort: Effort) -> Ratio:
        """The model's resource relative to the reference's."""
        ...


@dataclass(frozen=True)
class DeviceComparison:
    """Times in pairs of fresh sessions that take turns on a device, in the time that is left to the run."""

    run: Run
    inputs: Arrays
    execution: Execution
    device: Device | None = None

    @stage("measuring beside the original")
    def compare(self, proto: onnx.ModelProto, reference: onnx.ModelProto, effort: Effort) -> Ratio:
        """The model's time relative to the reference's."""
        seconds, sessions = (CAREFUL_S, CAREFUL_SESSIONS) if effort == "careful" else (BRIEF_S, BRIEF_SESSIONS)
        return ratio(
            proto,
            reference,
            self.inputs,
            self.execution,
            TimingPlan(sessions=sessions, time_cap_s=min(seconds, max(BRIEF_S, self.run.left_s()))),
            device=self.device,
        )


@dataclass(frozen=True)
class FunctionComparison:
    """Values of a function of a model, of the model and the reference in turn."""

    value: Value
    device: None = None

    @stage("measuring beside the original")
    def compare(self, proto: onnx.ModelProto, reference: onnx.ModelProto, effort: Effort) -> Ratio:
        """The model's resource relative to the reference's."""
        pairs: list[tuple[float, float]] = []
        while len(pairs) < (CAREFUL_PAIRS if effort == "careful" else BRIEF_PAIRS):
            pairs.append((self.value(proto), self.value(reference)))
            if effort == "brief" and pairs[-1:] == pairs[-2:-1]:
                break
        return ratio_of_pairs([float(model) for model, _ in pairs], [float(other) for _, other in pairs])


@dataclass(frozen=True)
class Measurement(Ratio):
    """A model beside the original, and what the original's fastest runs usually took in this run until then (ms)."""

    usual_ms: float | None = None

    @property
    def reference_fastest_ms(self) -> float:
        """What the original's fastest runs took meanwhile."""
        return reference_fastest_ms(self)

    def estimate(self, *, relative: bool) -> Estimate:
        """The model's time with its interval: as a share of the original's if `relative`, otherwise in ms."""
        return estimate(self, self.usual_ms, relative=relative)


def with_usual(ratio: Ratio, usual_ms: float | None) -> Measurement:
    """A measurement, with what the original's fastest runs usually take."""
    return Measurement(**{field.name: getattr(ratio, field.name) for field in fields(Ratio)}, usual_ms=usual_ms)


def estimate_of(ratio: Ratio, *, relative: bool) -> Estimate:
    """The model's time with its interval, of a run's own measurement or of one that a table holds."""
    return estimate(ratio, ratio.usual_ms if isinstance(ratio, Measurement) else None, relative=relative)


def latency_of(ratio: Ratio, predicted: float) -> Latency:
    """A measurement as results show it, beside its prediction: on a busy device by the fastest runs."""
    share, amount = estimate_of(ratio, relative=True), estimate_of(ratio, relative=False)
    quiet = share.quiet or not ratio.undisturbed_ms[1]
    return Latency(
        before_ms=ratio.reference.median_ms if quiet else reference_fastest_ms(ratio),
        after_ms=ratio.model.median_ms if quiet else float(np.median(ratio.undisturbed_ms[0])),
        after_ci95_ms=(amount.low, amount.high),
        ratio=share.value,
        ci95=(share.low, share.high),
        predicted_ms=predicted,
        sessions=ratio.model.sessions,
        disturbance=0.0 if share.quiet else share.disturbance,
    )


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

    def copy(self, key: str, other: str) -> None:
        """Keep what was measured under one key under another too, where the two measure the same."""
        if self.has(key):
            self._run.once(other, lambda: self._run.recall(key))

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
