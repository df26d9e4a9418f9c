"""What a search asks of a budgeted resource that cannot be counted: predictions, corrections and verdicts."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import numpy as np
import onnx

from netadapt_onnx.profilers.device import Device
from netadapt_onnx.profilers.estimate import Estimate, Verdict
from netadapt_onnx.profilers.statistics import Ratio
from netadapt_onnx.search.budget_check.measurements import Comparison, Effort, MeasurementJournal, Stage, latency_of
from netadapt_onnx.search.budget_check.prediction import Prediction
from netadapt_onnx.search.netadapt import TARGET_FRACTION
from netadapt_onnx.search.result import Latency

# Brief measurements are not trusted so near a budget.
NEAR = 0.03
# The search sets its target this far below a measured budget, so that the upper end of the final interval holds it too.
SAFETY_MARGIN = 0.985
# What counts as just within it: at the target itself, one rounding in twenty takes it for a miss.
WITHIN_MARGIN = SAFETY_MARGIN * (1 - 1e-9)


class BudgetCheck:
    """One resource on one device. Amounts are in the unit of the table: ms for latency, mJ for energy.

    A check of this class measures nothing, for a device that only a bundle reaches: the table's prediction alone
    counts. A correction multiplies a prediction: measured over predicted.

    Attributes:
        prediction: What the table says, and the limits that count.
    """

    def __init__(self, prediction: Prediction) -> None:
        """Check the budget of `prediction`."""
        self.prediction = prediction

    @property
    def device(self) -> Device | None:
        """The device that measures; None where only a bundle reaches it, and for resources without a device."""
        return None

    def correction(self, iteration: int, proto: onnx.ModelProto, predicted: float, expected: float) -> float:
        """The correction after an iteration; that of the original where no measurement says otherwise.

        Args:
            iteration: The iteration.
            proto: The model that it accepted.
            predicted: What the table predicts for it.
            expected: The prediction as corrected so far.
        """
        return self.prediction.start_correction()

    def carry_over(self, earlier: int, iteration: int) -> None:
        """Count what was measured of an earlier iteration's model as measured of this one's, which is the same."""

    def measured(self, iteration: int) -> Estimate | None:
        """What was measured of an iteration's model; None where nothing was, or nothing precise enough."""
        return None

    @property
    def measures(self) -> bool:
        """Whether models are measured; else the table's prediction alone counts."""
        return False

    def smallest(self, proto: onnx.ModelProto, predicted: float) -> float:
        """The least that the narrowest model can take, as measured, or as predicted where nothing is measured."""
        return predicted

    def measure(self, stage: Stage, iteration: int, proto: onnx.ModelProto) -> None:
        """Measure an iteration's model with care, unless that was done or there is nothing to measure on."""

    def is_decided(self, stage: Stage, iteration: int) -> bool:
        """Whether an iteration's model was measured with care, and measuring it again would decide no more."""
        return True

    def verdict(self, stage: Stage, iteration: int) -> Verdict:
        """Whether an iteration's model is within the budget, as measured with care; met, if nobody can measure it."""
        return "met"

    def careful_correction(self, iteration: int, predicted: float) -> float | None:
        """The correction that follows from careful measurements of an iteration's model; None if none decides."""
        return None

    def result(
        self, iteration: int, proto: onnx.ModelProto, predicted: float, *, measure: bool = True
    ) -> Latency | None:
        """The careful measurements of an iteration's model, as results show them; None if there are none.

        Args:
            iteration: The iteration.
            proto: The model as it became after the final training.
            predicted: What the table predicts for it.
            measure: Whether to measure this model, too.
        """
        return None


class MeasuredCheck(BudgetCheck):
    """A check whose comparison measures models beside the user's file."""

    def __init__(self, prediction: Prediction, journal: MeasurementJournal, comparison: Comparison) -> None:
        """Check the budget of `prediction` by measurements that `journal` keeps and `comparison` makes."""
        super().__init__(prediction)
        self._journal = journal
        self._comparison = comparison

    @property
    def device(self) -> Device | None:
        """The device that measures."""
        return self._comparison.device

    def correction(self, iteration: int, proto: onnx.ModelProto, predicted: float, expected: float) -> float:
        """The correction after an iteration: by a brief measurement, far from the budget.

        It changes no further than the interval demands, so that noise never steers. A model near the budget is measured
        with care, and so are all that follow: choices are closer to one another than brief measurements.
        """
        since = self.prediction.target_since
        if not any(self.is_decided("searched", earlier) for earlier in range(since + 1, iteration)):
            self._measure(self._journal.brief(iteration), proto, "brief")
            limit = self.prediction.limit(iteration)
            expected = self._within_interval(iteration, expected)
            if limit is None or abs(expected / limit - 1) >= NEAR:
                return expected / predicted
        self.measure("searched", iteration, proto)
        factor = self.careful_correction(iteration, predicted)
        return expected / predicted if factor is None else factor

    def carry_over(self, earlier: int, iteration: int) -> None:
        """Count what was measured with care of an earlier iteration's model as measured of this one's."""
        self._journal.copy(self._journal.careful("searched", earlier), self._journal.careful("searched", iteration))

    def measured(self, iteration: int) -> Estimate | None:
        """What was measured of an iteration's model; a relative budget's is its share of the original's amount.

        None where nothing was, or not precisely enough to tell more than the prediction.
        """
        estimate = self._careful("searched", iteration) or self._estimate([self._journal.brief(iteration)])
        if estimate is None or not estimate.precise:
            return None
        prediction = self.prediction
        if not prediction.relative:
            return estimate
        return estimate.times(prediction.of_file(prediction.measured_original) / prediction.unit)

    @property
    def measures(self) -> bool:
        """Whether models are measured."""
        return True

    def smallest(self, proto: onnx.ModelProto, predicted: float) -> float:
        """The least that the narrowest model can take: tables are least reliable at extremes."""
        self._measure(self._journal.smallest, proto, "brief")
        estimate = self._estimate([self._journal.smallest])
        assert estimate is not None
        return estimate.low

    def measure(self, stage: Stage, iteration: int, proto: onnx.ModelProto) -> None:
        """Measure an iteration's model with care, unless that was done."""
        if self.is_decided(stage, iteration):
            return
        limit = self.prediction.limit(iteration)

        def is_met(estimate: Estimate) -> bool:
            return limit is None or estimate.times(self.prediction.unit).verdict(limit) == "met"

        compare = partial(self._compare, proto, "careful")
        self._journal.measure(self._journal.careful(stage, iteration), compare, is_met)

    def verdict(self, stage: Stage, iteration: int) -> Verdict:
        """Whether the budget holds, as measured with care; on a busy device that may remain unclear."""
        estimate, limit = self._careful(stage, iteration), self.prediction.limit(iteration)
        return "met" if estimate is None or limit is None else estimate.verdict(limit)

    def is_decided(self, stage: Stage, iteration: int) -> bool:
        """Whether an iteration's model was measured with care, and measuring it again would decide no more.

        What remained unclear when the run ended is measured again when it goes on.
        """
        if self._journal.has(self._journal.careful(stage, iteration)):
            return True
        estimate, limit = self._careful(stage, iteration), self.prediction.limit(iteration)
        decided = estimate is not None and limit is not None and estimate.verdict(limit) != "unclear"
        return decided and self._journal.has_careful(stage, iteration)

    def careful_correction(self, iteration: int, predicted: float) -> float | None:
        """The correction that follows from careful measurements of an iteration's model; None if none decides.

        Of a model that missed the budget the upper end of the interval counts, since that has to hold, on a busy device
        the lower end, which is certain. Of one that met it the upper end, too, unless that is so low that there is
        room for channels to be given back: then the middle. However little it met it by, it is within the search's
        target, whichever way that is rounded.
        """
        limit = self.prediction.limit(iteration)
        estimate = self._careful("final", iteration)
        if estimate is None or limit is None or estimate.verdict(limit) == "unclear":
            return None
        if estimate.verdict(limit) == "missed":
            return (estimate.high if estimate.quiet else estimate.low) / predicted
        has_room = estimate.high < TARGET_FRACTION * limit
        return (estimate.value if has_room else min(estimate.high, WITHIN_MARGIN * limit)) / predicted

    def result(
        self, iteration: int, proto: onnx.ModelProto, predicted: float, *, measure: bool = True
    ) -> Latency | None:
        """The careful measurements of an iteration's widths, as results show them; None if there are none.

        With `measure` they include one of this model.
        """
        if measure:
            self.measure("final", iteration, proto)
        measurement = self._journal.reliable(self._journal.careful_so_far("final", iteration))
        return None if measurement is None else latency_of(measurement, predicted)

    def _within_interval(self, iteration: int, expected: float) -> float:
        estimate = self._estimate([self._journal.brief(iteration)])
        if estimate is None or not estimate.excludes(expected):
            return expected
        return float(np.clip(expected, estimate.low, estimate.high))

    def _measure(self, key: str, proto: onnx.ModelProto, effort: Effort) -> None:
        compare = partial(self._compare, proto, effort)
        self._journal.measure(key, compare, lambda estimate: estimate.precise)

    def _compare(self, proto: onnx.ModelProto, effort: Effort) -> Ratio:
        return self._comparison.compare(proto, self.prediction.normalisation.reference, effort)

    def _estimate(self, keys: Sequence[str]) -> Estimate | None:
        """What those of these measurements that were made say together, in the table's unit."""
        estimate = self._journal.estimate(keys)
        return None if estimate is None else estimate.times(self.prediction.unit)

    def _careful(self, stage: Stage, iteration: int) -> Estimate | None:
        """What careful measurements say of an iteration's model, in the table's unit; None if there are none."""
        return self._estimate(self._journal.careful_so_far(stage, iteration))
