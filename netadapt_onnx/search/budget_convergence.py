"""Where a search comes down: accepted models near their budget measured with care, and the best of those within it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import onnx

from netadapt_onnx.common.budget import Target
from netadapt_onnx.profilers.estimate import Verdict
from netadapt_onnx.search.latency_check import MeasuredLatency
from netadapt_onnx.search.latency_journal import Stage
from netadapt_onnx.search.netadapt import Problem, Step, amounts_after, met
from netadapt_onnx.search.prepared_model import Predictor

# A measured miss costs one more step (and after the final training, another one); after so many of each something else
# is wrong.
MOST_ROUNDS = {"searched": 4, "final": 2}
# Accuracies before the final training that differ by less than this share of the original's do not tell models apart.
ALIKE = 0.005


class BudgetConvergence:
    """What careful measurements, of `gauges` by resource, say of a run's accepted models."""

    def __init__(self, gauges: Mapping[str, MeasuredLatency], predict: Predictor) -> None:
        self._gauges = gauges
        self._predict = predict

    def to_judge(self, target: Target, stage: Stage, since: int, iteration: int) -> bool:
        """Whether this iteration's model is still to be measured carefully; `since`: how many an earlier target took.

        Counted by what the journal holds, so that a run that was killed measures as often as one that was not.
        """
        asked = self._asked(target)
        return not all(gauge.judged(stage, iteration) for gauge in asked) and self.rounds_left(
            target, stage, since, iteration
        )

    def rounds_left(self, target: Target, stage: Stage, since: int, iteration: int) -> bool:
        """Whether a miss of this iteration's model is worth another try."""
        asked = self._asked(target)
        done = [any(gauge.judged(stage, earlier) for gauge in asked) for earlier in range(since + 1, iteration)]
        return sum(done) < MOST_ROUNDS[stage]

    def measure(self, target: Target, stage: Stage, iteration: int, proto: onnx.ModelProto) -> None:
        """Measure an iteration's model with care."""
        for gauge in self._asked(target):
            gauge.measure(stage, iteration, proto)

    def verdict(self, target: Target, stage: Stage, iteration: int) -> Verdict:
        """What was measured with care says: missed if one budget is, met if all are (or nobody has measured)."""
        verdicts = {gauge.verdict(stage, iteration) for gauge in self._asked(target)}
        return next((one for one in ("missed", "unclear") if one in verdicts), "met")

    def unclear(self, iteration: int) -> bool:
        """Whether an iteration's model was measured with care on a device that was too busy to tell."""
        return any(gauge.verdict("searched", iteration) == "unclear" for gauge in self._gauges.values())

    def with_verdict(self, step: Step) -> Step:
        """A step, corrected by what a careful measurement found of its model: the search goes on from there."""
        predicted = self._predict(step.widths)
        found = {name: g.careful_correction(step.iteration, predicted[name]) for name, g in self._gauges.items()}
        factors = {name: factor for name, factor in found.items() if factor is not None}
        if not factors:
            return step
        return replace(step, accepted=replace(step.accepted, correction={**step.accepted.correction, **factors}))

    def best(self, problem: Problem, target: Target, steps: Sequence[Step]) -> int | None:
        """The iteration with the most accurate model that is within the budget, as measured with care; None if none is.

        Not always the last one: what was given back may have turned out too slow, and cost more when it was cut again.
        Of models that are about as accurate the one that uses most of the budget: training makes more of it.
        """
        asked = self._asked(target)
        able = [
            step
            for step in steps[problem.since :]
            if met(amounts_after(problem, steps[: step.iteration]), problem.limits)
            and all(gauge.judged("searched", step.iteration) for gauge in asked)
            and self.verdict(target, "final", step.iteration) == "met"
        ]
        if not able:
            return None

        def used(step: Step) -> float:
            amounts = amounts_after(problem, steps[: step.iteration])
            return max(amounts[name] / limit for name, limit in problem.limits.items())

        least = max(step.accepted.accuracy for step in able) - ALIKE * abs(problem.start.accuracy)
        alike = [step for step in able if step.accepted.accuracy >= least]
        return max(alike, key=lambda step: (used(step), step.iteration)).iteration

    def _asked(self, target: Target) -> list[MeasuredLatency]:
        """The gauges of the resources that a target limits."""
        return [self._gauges[budget.resource] for budget in target if budget.resource in self._gauges]
