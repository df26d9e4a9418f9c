"""The lines on an accepted iteration: its cut, its resources relative to the original's, and its accuracy."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from netadapt_onnx.search.budget_check.protocol import BudgetCheck
from netadapt_onnx.search.netadapt import Step
from netadapt_onnx.search.proposals import Amounts


@dataclass(frozen=True)
class IterationLog:
    """Lines for the log and for progress; `original` are the resources of the user's file in base units."""

    budget_checks: Mapping[str, BudgetCheck]
    original: Amounts
    metric: str

    def line(self, step: Step, resources: Iterable[str]) -> str:
        """All of an iteration, for the log."""
        amounts = ", ".join(self._amount(step, name, "{:.3f}") for name in resources)
        change = f"{step.group} {step.channels[0]} -> {step.channels[1]}"
        return f"iteration {step.iteration}: {change}, {amounts}, {self.metric} {step.accepted.accuracy:.4f}"

    def summary(self, step: Step, resources: Iterable[str]) -> str:
        """How far the search has come, for progress."""
        amounts = ", ".join(self._amount(step, name, "{:.2f}", interval=False) for name in resources)
        return f"so far {amounts} at {self.metric} {step.accepted.accuracy:.3f}"

    def _amount(self, step: Step, name: str, form: str, *, interval: bool = True) -> str:
        """A resource relative to the original's, and whether it was measured or predicted."""
        check = self.budget_checks.get(name)
        if check is None:
            return f"{name} {form.format(step.resources[name] / self.original[name])}x"
        prediction = check.prediction
        if name not in step.accepted.measured:
            return f"{name} {form.format(prediction.share(step.resources[name]))}x predicted"
        original = prediction.of_file(prediction.measured_original)
        amounts = (step.accepted.measured[name], *step.accepted.measured_ci95[name])
        share, low, high = (form.format(amount / original) for amount in amounts)
        return f"{name} {share}x measured" + (f" ({low}x to {high}x)" if interval else "")
