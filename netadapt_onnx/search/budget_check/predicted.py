"""The check of a budget on a device that only a bundle reaches: the table's prediction, without any measurement."""

from __future__ import annotations

import math
from dataclasses import dataclass

import onnx

from netadapt_onnx.profilers.estimate import Verdict
from netadapt_onnx.search.budget_check.measurement_journal import Stage
from netadapt_onnx.search.budget_check.prediction import Prediction


@dataclass(frozen=True)
class PredictedCheck:
    """A `BudgetCheck` that measures nothing."""

    prediction: Prediction
    device: None = None

    def correction(self, iteration: int, proto: onnx.ModelProto, predicted: float, expected: float) -> float:
        """That of the original: no measurement says otherwise."""
        return self.prediction.start_correction()

    def measured(self, iteration: int) -> None:
        """Nothing is measured."""

    def smallest(self, proto: onnx.ModelProto) -> float:
        """Infinite: only the table's prediction counts."""
        return math.inf

    def measure(self, stage: Stage, iteration: int, proto: onnx.ModelProto) -> None:
        """There is no device to measure on."""

    def is_decided(self, stage: Stage, iteration: int) -> bool:
        """True: there is nothing to measure."""
        return True

    def verdict(self, stage: Stage, iteration: int) -> Verdict:
        """Met, as far as the search goes; the result says that nobody has measured it."""
        return "met"

    def careful_correction(self, iteration: int, predicted: float) -> None:
        """Nothing is measured."""

    def result(self, iteration: int, proto: onnx.ModelProto, predicted: float, *, measure: bool = True) -> None:
        """Nothing is measured."""
