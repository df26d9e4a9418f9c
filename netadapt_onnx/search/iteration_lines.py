"""What is said of an accepted iteration: its cut, its resources relative to the original's, its accuracy."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from netadapt_onnx.search.latency_check import MeasuredLatency
from netadapt_onnx.search.netadapt import Step
from netadapt_onnx.search.proposals import Amounts


@dataclass(frozen=True)
class IterationLines:
    """Lines for the log and for whoever watches; `original` are the original's resources in base units."""

    gauges: Mapping[str, MeasuredLatency]
    original: Amounts
    metric: str

    def full(self, step: Step, resources: Iterable[str]) -> str:
        """All of an iteration, for the log."""
        amounts = ", ".join(self._amount(step, name, "{:.3f}") for name in resources)
        change = f"{step.group} {step.channels[0]} -> {step.channels[1]}"
        return f"iteration {step.iteration}: {change}, {amounts}, {self.metric} {step.accepted.accuracy:.4f}"

    def short(self, step: Step, resources: Iterable[str]) -> str:
        """How far the search has come."""
        amounts = ", ".join(self._amount(step, name, "{:.2f}", interval=False) for name in resources)
        return f"so far {amounts} at {self.metric} {step.accepted.accuracy:.3f}"

    def _amount(self, step: Step, name: str, form: str, *, interval: bool = True) -> str:
        """A resource relative to the original's; of one that takes measuring, whether it was measured."""
        gauge = self.gauges.get(name)
        if gauge is None:
            return f"{name} {form.format(step.resources[name] / self.original[name])}x"
        if name not in step.accepted.measured:
            return f"{name} {form.format(gauge.share(step.resources[name]))}x predicted"
        amounts = (step.accepted.measured[name], *step.accepted.measured_ci95[name])
        share, low, high = (form.format(amount / gauge.as_given(gauge.reference_ms)) for amount in amounts)
        return f"{name} {share}x measured" + (f" ({low}x to {high}x)" if interval else "")
