"""What a table predicts of one resource, in the unit of its budget, and the limits that count."""

from __future__ import annotations

from collections.abc import Mapping

from netadapt_onnx.common.budget import Budget
from netadapt_onnx.graph.folded_model import FoldedModel
from netadapt_onnx.search.budget_check.measurements import estimate_of, latency_of
from netadapt_onnx.search.budget_check.normalisation import Normalisation
from netadapt_onnx.search.result import Latency
from netadapt_onnx.search.tables import Predicting, latency_by_layer

# What the interval of the normalised original reaches over a limit counts as at most this share of the limit.
JUST_OVER = 1.001

Shapes = Mapping[str, tuple[int, ...]]


class Prediction:
    """Predictions of one resource by a table, or by a fit that stands for one, in ms for latency and mJ for energy.

    A relative budget compares shares of the resource of the user's file, an absolute one amounts.

    Attributes:
        relative: Whether the budget is a share of the original's resource.
        normalisation: The user's file beside its normalised form, which the table is of.
    """

    def __init__(
        self, table: Predicting, original: FoldedModel, normalisation: Normalisation, budget: Budget | None
    ) -> None:
        """Predict by `table` for models cut from `original`; `budget` is the limit, if there is one."""
        self._table = table
        self._targets: list[tuple[int, Budget]] = [] if budget is None else [(0, budget)]
        self.relative = budget is None or budget.relative
        self.normalisation = normalisation
        self._predicted_original = table.predict(original.shapes)

    def amount(self, shapes: Shapes) -> float:
        """The predicted resource of the model at these tensor shapes."""
        return self._table.predict(shapes)

    def by_layer(self, shapes: Shapes) -> dict[str, float]:
        """The predicted resource of every unit by its main layer's name; empty if the table has no units."""
        return latency_by_layer(self._table, shapes)

    @property
    def measured_original(self) -> float:
        """The original's resource, as measured with the table."""
        return self._table.latency_ms.median_ms

    def set_target(self, budget: Budget, since: int) -> None:
        """Let this limit count from here on: for what comes after the first `since` iterations."""
        self._targets = [*(target for target in self._targets if target[0] < since), (since, budget)]

    @property
    def target_since(self) -> int:
        """The number of iterations that came before the limit that counts now."""
        return self._targets[-1][0] if self._targets else 0

    def limit(self, iteration: int) -> float | None:
        """The limit that an iteration's model has to keep; None if there is none."""
        limits = [budget.value for since, budget in self._targets if since < max(1, iteration)]
        return limits[-1] * self.unit if limits else None

    @property
    def unit(self) -> float:
        """The amount that is 1 in the budget's unit: shares are of the user's file."""
        return self.of_file(self._predicted_original) if self.relative else 1.0

    def of_file(self, normalised: float) -> float:
        """The resource of the user's file where its normalised form has so much."""
        ratio = self.normalisation.ratio
        return normalised / (1.0 if ratio is None else ratio.median)

    def share(self, amount: float) -> float:
        """A corrected prediction as a share of the resource of the user's file."""
        return amount / self.of_file(self._predicted_original if self.relative else self.measured_original)

    def start_correction(self) -> float:
        """The correction of the normalised original: 1 for a relative budget, which compares predictions.

        Where it was measured beside the user's file, and the interval reaches over the limit, its upper end counts.
        """
        ratio, limit = self.normalisation.ratio, self.limit(0)
        if ratio is None:
            return 1.0 if self.relative else self.measured_original / self._predicted_original
        measured = estimate_of(ratio, relative=self.relative).times(self.unit)
        if limit is not None and measured.high > limit:  # by no more than that demands: noise does not steer
            return max(measured.value, min(measured.high, JUST_OVER * limit)) / self._predicted_original
        return measured.value / self._predicted_original

    def normalised(self) -> Latency | None:
        """What was measured of the uncut model once normalised; None where that is the user's file."""
        ratio = self.normalisation.ratio
        return None if ratio is None else latency_of(ratio, self.measured_original)
