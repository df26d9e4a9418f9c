"""How far a search has come: for progress the best model and the time that is left, for the log a line an iteration."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

from netadapt_onnx.common.progress import Progress
from netadapt_onnx.search.budget_check.check import BudgetCheck
from netadapt_onnx.search.netadapt import Step
from netadapt_onnx.search.proposals import Amounts


class ProgressReporter:
    """Adds to every progress message the best model so far and about how long the search will take."""

    def __init__(self, progress: Progress, clock: Callable[[], float] = time.monotonic) -> None:
        """Report to `progress`; `clock` is in seconds."""
        self._progress = progress
        self._clock = clock
        self._began = clock()
        self._first: float | None = None
        self._so_far = ""

    def begin(self, excess: float) -> None:
        """Begin the search for a target; `excess` is the share by which the model is above the budget."""
        self._began, self._first = self._clock(), excess

    def step(self, text: str, excess: float) -> None:
        """Report an accepted model in the words `text`; `excess` is the share by which it is still above the budget."""
        removed = (self._first or 0.0) - excess
        rest = ""
        if removed > 0 and excess > 0:
            rest = f", about {duration((self._clock() - self._began) * excess / removed)} of searching left"
        self._so_far = f": {text}{rest}"

    def __call__(self, done: int, total: int, text: str) -> None:
        """Report progress with all that, unless the text has details of its own."""
        self._progress(done, total, text if ": " in text else text + self._so_far)


def excess(amounts: Mapping[str, float], limits: Mapping[str, float]) -> float:
    """The share by which the resource furthest above its limit is above it; 0 if none is."""
    return max(0.0, *(amounts[name] / limit - 1 for name, limit in limits.items()))


def duration(seconds: float) -> str:
    """A few seconds or minutes, rounded."""
    return f"{seconds:.0f} s" if seconds < 90 else f"{seconds / 60:.0f} min"


@dataclass(frozen=True)
class IterationLog:
    """Lines for the log and for progress; `original` are the resources of the user's file in base units."""

    budget_checks: Mapping[str, BudgetCheck]
    original: Amounts
    metric: str

    def line(self, step: Step, widths: Mapping[str, int], resources: Iterable[str]) -> str:
        """All of an iteration, for the log; `widths` are those before it."""
        amounts = ", ".join(self._amount(step, name, "{:.3f}") for name in resources)
        changes = step.changes(widths).items()
        change = ", ".join(f"{name} {before} -> {after}" for name, (before, after) in changes)
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
