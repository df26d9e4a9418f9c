"""Latency in a search: the table proposes, the device decides; measurements are journalled before they are used."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial

import numpy as np
import onnx

from netadapt_onnx.common.budget import Budget
from netadapt_onnx.common.progress import stage
from netadapt_onnx.common.resources import LATENCY
from netadapt_onnx.graph.original_file import AsGiven
from netadapt_onnx.graph.runtime import random_inputs
from netadapt_onnx.profilers.device import Device
from netadapt_onnx.profilers.estimate import Estimate, Verdict, estimate
from netadapt_onnx.profilers.execution import Execution
from netadapt_onnx.profilers.statistics import Disturbance, Ratio, reference_fastest_ms
from netadapt_onnx.profilers.timing import TimingPlan, ratio
from netadapt_onnx.search.latency_journal import LatencyJournal, Measurement, Stage
from netadapt_onnx.search.netadapt import TARGET_FRACTION
from netadapt_onnx.search.normalising import Measured, Normalising, Recorded
from netadapt_onnx.search.result import Latency
from netadapt_onnx.search.run_directory.run import Run
from netadapt_onnx.search.tables import Predicting, spent_ms
from netadapt_onnx.surgery.trace import Trace

# What building a table may take.
# An accepted model is measured briefly; the one that is to meet the budget until its interval is narrow.
BRIEF_S, BRIEF_SESSIONS = 3.0, 5
CAREFUL_S, CAREFUL_SESSIONS = 20.0, 21
# Brief measurements are not trusted so near a budget.
NEAR = 0.03
# The search aims this far below a latency budget, so that the upper end of the final interval holds it too.
AIM = 0.985
# What may be over a limit counts as this share of it.
JUST_OVER = 1.001


class MeasuredLatency:
    """Predicts by a table and measures beside the original, all on one device.

    `budget` is the latency budget, if there is one: a relative one compares shares of the original's time, an absolute
    one milliseconds. A correction is measured over predicted. `usual_ms` are times of the original's fastest runs
    that were measured on the device just before; `log` is told once that the device is busy.
    """

    def __init__(
        self,
        run: Run,
        original: Trace,
        table: Predicting,
        execution: Execution,
        budget: Budget | None,
        resource: str = LATENCY,
        device: Device | None = None,
        given: AsGiven | None = None,
        *,
        usual_ms: Sequence[float] = (),
        log: Callable[[str], None] | None = None,
    ) -> None:
        self._run = run
        self._device = device
        self._original = original.folded
        self._table = table
        self._execution = execution
        self._targets: list[tuple[int, Budget]] = [] if budget is None else [(0, budget)]
        self._relative = budget is None or budget.relative
        self._inputs = random_inputs(original.folded.specs)
        self._predicted_reference = table.predict(original.folded.shapes)
        beside_another = given is not None and given.proto is not None  # than what the table was measured beside
        just_before_ms = () if beside_another else usual_ms
        self._journal = LatencyJournal(run, resource, relative=self._relative, just_before_ms=just_before_ms)
        self._log = log
        self.normalising = self._normalising(given)

    def _normalising(self, given: AsGiven | None) -> Normalising:
        """The file as given beside its normalised form, measured carefully when it is first asked for."""

        def measure(proto: onnx.ModelProto, reference: onnx.ModelProto) -> Ratio:
            time_both = partial(self._ratio, proto, CAREFUL_S, CAREFUL_SESSIONS, reference)
            self._journal.measure(self._journal.normalised, time_both, lambda found: found.precise, self._tell)
            measurement = self._journal.reliable(self._journal.all_normalised)
            assert measurement is not None
            share = measurement.estimate(relative=True)
            return replace(measurement, median=share.value, ci95=(share.low, share.high))

        return Measured(self._run, self._journal.resource, given, self._original.proto, measure)

    @property
    def _gain(self) -> float:
        """What normalising alone leaves of the resource of the file as given."""
        return 1.0 if self.normalising.ratio is None else self.normalising.ratio.median

    def as_given(self, normalised: float) -> float:
        """The resource of the file as given, where its normalised form has so much."""
        return normalised / self._gain

    def set_target(self, budget: Budget, since: int) -> None:
        """From here on this limit counts: for what comes after the first `since` iterations."""
        self._targets = [*(target for target in self._targets if target[0] < since), (since, budget)]

    def _limit(self, iteration: int) -> float | None:
        """The budget's value in the table's ms that an iteration's model has to keep."""
        limits = [budget.value for since, budget in self._targets if since < max(1, iteration)]
        return limits[-1] * self._unit if limits else None

    @property
    def reference_ms(self) -> float:
        """The original's median latency, as measured with the table."""
        return self._table.latency_ms.median_ms

    def predicted(self, shapes: Mapping[str, tuple[int, ...]]) -> float:
        """Latency in ms of the model at these tensor shapes, by the table."""
        return self._table.predict(shapes)

    def spent_ms(self, shapes: Mapping[str, tuple[int, ...]]) -> dict[str, float]:
        """Where the predicted latency goes: every unit's share of it by its main layer's name; empty if unknown."""
        return spent_ms(self._table, shapes)

    def start_correction(self) -> float:
        """That of the normalised original: 1 for a relative budget, which compares predictions with predictions.

        Where it was measured beside the file as given, and the interval reaches over the budget, its upper end counts.
        """
        ratio, limit = self.normalising.ratio, self._limit(0)
        if ratio is None:
            return 1.0 if self._relative else self.reference_ms / self._predicted_reference
        usual_ms = ratio.usual_ms if isinstance(ratio, Measurement) else None
        found = estimate(ratio, usual_ms, relative=self._relative).times(self._unit)
        if limit is not None and found.high > limit:  # by no more than that demands: noise does not steer
            return max(found.value, min(found.high, JUST_OVER * limit)) / self._predicted_reference
        return found.value / self._predicted_reference

    def share(self, amount_ms: float) -> float:
        """What a corrected prediction is of the time of the file as given."""
        return amount_ms / self.as_given(self._predicted_reference if self._relative else self.reference_ms)

    @property
    def device(self) -> Device | None:
        """Where it measures; None: nowhere, only a bundle gets there."""
        return self._device

    def correction(self, iteration: int, proto: onnx.ModelProto, predicted_ms: float, expected_ms: float) -> float:
        """What a measurement of an iteration's model says of its prediction: a brief one, far from the budget.

        `expected_ms` is the prediction as corrected so far. It changes no further than the interval demands, so that
        noise never steers. A model near the budget is measured with care, and so are all that follow: rungs are closer
        to one another than brief measurements.
        """
        since = self._targets[-1][0] if self._targets else 0
        if not any(self.judged("searched", earlier) for earlier in range(since + 1, iteration)):
            self._measure_briefly(self._journal.brief(iteration), proto)
            limit = self._limit(iteration)
            expected_ms = self._within_interval(iteration, expected_ms)
            if limit is None or abs(expected_ms / limit - 1) >= NEAR:
                return expected_ms / predicted_ms
        self.measure("searched", iteration, proto)
        factor = self.careful_correction(iteration, predicted_ms)
        return expected_ms / predicted_ms if factor is None else factor

    def _within_interval(self, iteration: int, expected_ms: float) -> float:
        found = self._estimate([self._journal.brief(iteration)])
        if found is None or not found.excludes(expected_ms):
            return expected_ms
        return float(np.clip(expected_ms, found.low, found.high))

    def measured(self, iteration: int) -> Estimate | None:
        """What was measured of an iteration's model, in ms; a relative budget's is its share of the original's time.

        None where nothing was, or not precisely enough to tell more than the prediction.
        """
        found = self._known("searched", iteration) or self._estimate([self._journal.brief(iteration)])
        if found is None or not found.precise:
            return None
        return found.times(self.as_given(self.reference_ms) / self._unit) if self._relative else found

    def smallest(self, proto: onnx.ModelProto) -> float:
        """The least that the narrowest model can take, in the table's ms: tables know least about extremes."""
        self._measure_briefly(self._journal.smallest, proto)
        found = self._estimate([self._journal.smallest])
        assert found is not None
        return found.low

    def measure(self, stage: Stage, iteration: int, proto: onnx.ModelProto) -> None:
        """Measure an iteration's model with care, if that was not done."""
        if self.judged(stage, iteration):
            return
        limit = self._limit(iteration)

        def met(found: Estimate) -> bool:
            return limit is None or found.times(self._unit).verdict(limit) == "met"

        time_both = partial(self._ratio, proto, CAREFUL_S, CAREFUL_SESSIONS)
        self._journal.measure(self._journal.careful(stage, iteration), time_both, met, self._tell)

    def verdict(self, stage: Stage, iteration: int) -> Verdict:
        """Whether the budget holds, as measured with care; on a busy device that may remain unclear."""
        found, limit = self._known(stage, iteration), self._limit(iteration)
        return "met" if found is None or limit is None else found.verdict(limit)

    def judged(self, stage: Stage, iteration: int) -> bool:
        """Whether this iteration's model has been measured carefully, and nothing is to be gained from doing so again.

        What remained unclear when the run ended is measured again when it goes on.
        """
        if self._journal.has(self._journal.careful(stage, iteration)):
            return True
        found, limit = self._known(stage, iteration), self._limit(iteration)
        decided = found is not None and limit is not None and found.verdict(limit) != "unclear"
        return decided and self._journal.has_careful(stage, iteration)

    def careful_correction(self, iteration: int, predicted_ms: float) -> float | None:
        """The correction that follows from careful measurements; None if there are none that decide.

        Of a model that missed the budget the upper end of the interval counts, since that has to hold, on a busy device
        the lower end, which is certain. Of one that met it the upper end, too, unless that is so low that there is
        room for channels to be given back: then the middle. However little it met it by, it is within what the search
        aims at.
        """
        limit = self._limit(iteration)
        found = self._known("final", iteration)
        if found is None or limit is None or found.verdict(limit) == "unclear":
            return None
        if found.verdict(limit) == "met":
            return (
                found.value if found.high < TARGET_FRACTION * limit else min(found.high, AIM * limit)
            ) / predicted_ms
        return (found.high if found.quiet else found.low) / predicted_ms

    def result(
        self, iteration: int, proto: onnx.ModelProto, predicted_ms: float, *, measure: bool = True
    ) -> Latency | None:
        """All that is known from careful measurements of an iteration's widths, as results show it.

        With `measure` that includes one of this model; without, it may be nothing.
        """
        if measure:
            self.measure("final", iteration, proto)
        measurement = self._journal.reliable(self._journal.careful_so_far("final", iteration))
        if measurement is None:
            return None
        return _latency(measurement, predicted_ms)

    def normalised(self) -> Latency | None:
        """What was measured of the uncut model once normalised; None where that is the file as given."""
        ratio = self.normalising.ratio
        return None if ratio is None else _latency(ratio, self.reference_ms)

    @property
    def _unit(self) -> float:
        """The table's ms in the budget's unit: shares are of the file as given."""
        return self.as_given(self._predicted_reference) if self._relative else 1.0

    def _measure_briefly(self, key: str, proto: onnx.ModelProto) -> None:
        time_both = partial(self._ratio, proto, BRIEF_S, BRIEF_SESSIONS)
        self._journal.measure(key, time_both, lambda found: found.precise, self._tell)

    def _estimate(self, keys: Sequence[str]) -> Estimate | None:
        """What those of these measurements that were made say together, in the table's ms."""
        found = self._journal.estimate(keys)
        return None if found is None else found.times(self._unit)

    def _known(self, stage: Stage, iteration: int) -> Estimate | None:
        """What careful measurements say of an iteration's model, in the table's ms; None if there are none."""
        return self._estimate(self._journal.careful_so_far(stage, iteration))

    def _tell(self, disturbance: Disturbance) -> None:
        """Say, once, that the device is busy."""
        if self._log is not None:
            self._log(disturbance.sentence("local" if self._device is None else self._device.name))
            self._log = None

    @stage("measuring beside the original")
    def _ratio(
        self, proto: onnx.ModelProto, seconds: float, sessions: int, reference: onnx.ModelProto | None = None
    ) -> Ratio:
        """The model beside the file as given (or `reference`), in pairs of fresh sessions that take turns."""
        return ratio(
            proto,
            self.normalising.reference if reference is None else reference,
            self._inputs,
            self._execution,
            TimingPlan(sessions=sessions, time_cap_s=min(seconds, max(BRIEF_S, self._run.left_s()))),
            device=self._device,
        )


def _latency(found: Ratio, predicted_ms: float) -> Latency:
    """A measurement as results show it: on a busy device by the fastest runs."""
    usual_ms = found.usual_ms if isinstance(found, Measurement) else None
    share, ms = (estimate(found, usual_ms, relative=relative) for relative in (True, False))
    quiet = share.quiet or not found.undisturbed_ms[1]
    return Latency(
        before_ms=found.reference.median_ms if quiet else reference_fastest_ms(found),
        after_ms=found.model.median_ms if quiet else float(np.median(found.undisturbed_ms[0])),
        after_ci95_ms=(ms.low, ms.high),
        ratio=share.value,
        ci95=(share.low, share.high),
        predicted_ms=predicted_ms,
        sessions=found.model.sessions,
        disturbance=0.0 if share.quiet else share.disturbance,
    )


class PredictedLatency(MeasuredLatency):
    """Where only a bundle reaches the device: the table is all that is known, and nothing is measured."""

    def _normalising(self, given: AsGiven | None) -> Normalising:
        """What the table knows of the file as given."""
        return Recorded(self._table, given, self._original.proto)

    def correction(self, iteration: int, proto: onnx.ModelProto, predicted_ms: float, expected_ms: float) -> float:
        """That of the original: no measurement says otherwise."""
        return self.start_correction()

    def smallest(self, proto: onnx.ModelProto) -> float:
        """What the table says is all there is."""
        return float("inf")

    def judged(self, stage: Stage, iteration: int) -> bool:
        """There is nothing to find out."""
        return True

    def measure(self, stage: Stage, iteration: int, proto: onnx.ModelProto) -> None:
        """There is nothing to measure on."""

    def result(self, iteration: int, proto: onnx.ModelProto, predicted_ms: float, *, measure: bool = True) -> None:
        """There is none."""
