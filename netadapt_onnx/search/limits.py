"""The budgets of a run in base units, and the resources of the user's file that shares are of."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

from netadapt_onnx.common.budget import Target
from netadapt_onnx.search.budget_check.protocol import BudgetCheck
from netadapt_onnx.search.predictor import Predictor
from netadapt_onnx.search.prepared_model import PreparedModel
from netadapt_onnx.search.result import Share


@dataclass(frozen=True)
class Limits:
    """Budgets in base units: shares are of the user's file, which may be slower than its normalised form."""

    prepared: PreparedModel
    budget_checks: Mapping[str, BudgetCheck]
    predict: Predictor

    @cached_property
    def original(self) -> dict[str, float]:
        """The resources of the user's file in base units, as predictions have them."""
        normalised = self.predict(self.prepared.widths) | {"size": float(self.prepared.model.size_bytes)}
        checks = self.budget_checks.items()
        return normalised | {name: check.prediction.of_file(normalised[name]) for name, check in checks}

    def of(self, target: Target) -> dict[str, float]:
        """The limit of every budget of a target, in base units."""
        return {budget.resource: budget.limit(self.original[budget.resource]) for budget in target}

    @cached_property
    def normalisation_shares(self) -> dict[str, Share]:
        """By resource, the share that normalising alone leaves, where measurements tell the two apart."""
        ratios = {name: check.prediction.normalisation.ratio for name, check in self.budget_checks.items()}
        return {name: Share(ratio.median, ratio.ci95) for name, ratio in ratios.items() if ratio is not None}

    def start_correction(self) -> dict[str, float]:
        """The correction of every measured resource's prediction for the original."""
        return {name: check.prediction.start_correction() for name, check in self.budget_checks.items()}

    def note_on_met(self, target: Target) -> str:
        """Why there is nothing to do for a target that the uncut model meets."""
        for budget in target:
            if budget.resource not in self.normalisation_shares:
                continue
            latency = self.budget_checks[budget.resource].prediction.normalised()
            if latency is not None and budget.limit(latency.before_ms) < latency.before_ms:
                return f"normalising alone meets it ({latency.ratio:.3f}x): nothing is cut"
        return "the model is within its budget already: nothing to do"
