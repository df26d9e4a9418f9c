"""The convergence of a search on its budget: accepted models near it, measured with care, and the best within it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import onnx

from netadapt_onnx.common.budget import Target
from netadapt_onnx.profilers.estimate import Verdict
from netadapt_onnx.search.budget_check.check import BudgetCheck
from netadapt_onnx.search.budget_check.measurements import Stage
from netadapt_onnx.search.netadapt import Problem, Step, amounts_after, met
from netadapt_onnx.search.portfolio import PORTFOLIO
from netadapt_onnx.search.predictor import Predictor

# A measured miss costs one more step (and after the final training, another one); after so many of each something else
# is wrong.
MOST_ROUNDS = {"searched": 4, "final": 2}
# Accuracies before the final training that differ by less than this share of the original's count as equal.
EQUAL_ACCURACY = 0.005


class BudgetConvergence:
    """What careful measurements say of the accepted models of a run."""

    def __init__(self, budget_checks: Mapping[str, BudgetCheck], predict: Predictor) -> None:
        """Decide by `budget_checks`, by resource; `predict` predicts the resources of widths."""
        self._checks = budget_checks
        self._predict = predict

    def needs_measurement(self, target: Target, stage: Stage, since: int, iteration: int) -> bool:
        """Whether an iteration's model is still to be measured with care.

        It goes by what the journal holds, so that a run that was killed measures as often as one that was not.

        Args:
            target: The budgets.
            stage: Before or after the final training.
            since: The number of iterations that earlier targets took.
            iteration: The iteration.
        """
        decided = all(check.is_decided(stage, iteration) for check in self._checks_of(target))
        return not decided and self.has_rounds(target, stage, since, iteration)

    def has_rounds(self, target: Target, stage: Stage, since: int, iteration: int) -> bool:
        """Whether a miss of an iteration's model is worth another try."""
        checks = self._checks_of(target)
        done = [any(check.is_decided(stage, earlier) for check in checks) for earlier in range(since + 1, iteration)]
        return sum(done) < MOST_ROUNDS[stage]

    def measure(self, target: Target, stage: Stage, iteration: int, proto: onnx.ModelProto) -> None:
        """Measure an iteration's model with care."""
        for check in self._checks_of(target):
            check.measure(stage, iteration, proto)

    def verdict(self, target: Target, stage: Stage, iteration: int) -> Verdict:
        """What careful measurements say: missed if one budget is, met if all are, or if nothing was measured."""
        verdicts = {check.verdict(stage, iteration) for check in self._checks_of(target)}
        return next((one for one in ("missed", "unclear") if one in verdicts), "met")

    def is_unclear(self, iteration: int) -> bool:
        """Whether an iteration's model was measured with care on a device that was too busy to decide."""
        return any(check.verdict("searched", iteration) == "unclear" for check in self._checks.values())

    def corrected(self, step: Step) -> Step:
        """A step with the corrections of careful measurements of its model, from which the search goes on."""
        predicted = self._predict(step.widths)
        corrections = {n: c.careful_correction(step.iteration, predicted[n]) for n, c in self._checks.items()}
        factors = {name: factor for name, factor in corrections.items() if factor is not None}
        if not factors:
            return step
        return replace(step, accepted=replace(step.accepted, correction={**step.accepted.correction, **factors}))

    def best(self, problem: Problem, target: Target, steps: Sequence[Step]) -> int | None:
        """The iteration with the most accurate model that is within the budget, as measured with care; None if none is.

        It is not always the last one: what was given back may have been measured too slow, and have cost more when it
        was cut again. Of models that are about as accurate it is the one that uses most of the budget: training makes
        more of it. What the portfolio has beaten does not come back, as long as its winner is within the budget: there
        a training has decided, before which the winner may have been the worse one.
        """
        checks = self._checks_of(target)
        within = [
            step
            for step in steps[problem.since :]
            if met(amounts_after(problem, steps[: step.iteration]), problem.limits)
            and all(check.is_decided("searched", step.iteration) for check in checks)
            and self.verdict(target, "final", step.iteration) == "met"
        ]
        beaten = max((step.iteration for step in steps[problem.since :] if step.group == PORTFOLIO), default=0)
        within = [step for step in within if step.iteration >= beaten] or within
        if not within:
            return None

        def used(step: Step) -> float:
            amounts = amounts_after(problem, steps[: step.iteration])
            return max(amounts[name] / limit for name, limit in problem.limits.items())

        least = max(step.accepted.accuracy for step in within) - EQUAL_ACCURACY * abs(problem.start.accuracy)
        accurate = [step for step in within if step.accepted.accuracy >= least]
        return max(accurate, key=lambda step: (used(step), step.iteration)).iteration

    def _checks_of(self, target: Target) -> list[BudgetCheck]:
        """The checks of the resources that a target limits."""
        return [self._checks[budget.resource] for budget in target if budget.resource in self._checks]
