"""What a search asks of a budgeted resource that cannot be counted: predictions, corrections and verdicts."""

from __future__ import annotations

from typing import Protocol

import onnx

from netadapt_onnx.profilers.device import Device
from netadapt_onnx.profilers.estimate import Estimate, Verdict
from netadapt_onnx.search.budget_check.measurement_journal import Stage
from netadapt_onnx.search.budget_check.prediction import Prediction
from netadapt_onnx.search.result import Latency


class BudgetCheck(Protocol):
    """One resource on one device. Amounts are in the unit of the table: ms for latency, mJ for energy.

    `MeasuredCheck` measures models beside the original; `PredictedCheck` has only what the table says. A correction
    multiplies a prediction: measured over predicted.
    """

    @property
    def prediction(self) -> Prediction:
        """What the table says, and the limits that count."""
        ...

    @property
    def device(self) -> Device | None:
        """The device that measures; None where only a bundle reaches it, and for resources without a device."""
        ...

    def correction(self, iteration: int, proto: onnx.ModelProto, predicted: float, expected: float) -> float:
        """The correction after an iteration.

        Args:
            iteration: The iteration.
            proto: The model that it accepted.
            predicted: What the table predicts for it.
            expected: The prediction as corrected so far.
        """
        ...

    def measured(self, iteration: int) -> Estimate | None:
        """What was measured of an iteration's model; None where nothing was, or nothing precise enough."""
        ...

    def smallest(self, proto: onnx.ModelProto) -> float:
        """The least that the narrowest model can take."""
        ...

    def measure(self, stage: Stage, iteration: int, proto: onnx.ModelProto) -> None:
        """Measure an iteration's model with care, unless that was done."""
        ...

    def is_decided(self, stage: Stage, iteration: int) -> bool:
        """Whether an iteration's model was measured with care, and measuring it again would decide no more."""
        ...

    def verdict(self, stage: Stage, iteration: int) -> Verdict:
        """Whether an iteration's model is within the budget, as measured with care."""
        ...

    def careful_correction(self, iteration: int, predicted: float) -> float | None:
        """The correction that follows from careful measurements of an iteration's model; None if none decides."""
        ...

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
        ...
