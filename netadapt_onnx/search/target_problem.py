"""The problem of a target: its budgets in base units, the schedule that reaches them, and the original's evaluation."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property

from netadapt_onnx.common.budget import Target
from netadapt_onnx.data.guessing import guessing_note
from netadapt_onnx.search.budget_check.check import SAFETY_MARGIN, BudgetCheck
from netadapt_onnx.search.budget_check.measurements import CAREFUL_S
from netadapt_onnx.search.context import SearchContext
from netadapt_onnx.search.netadapt import Accepted, Problem, Step
from netadapt_onnx.search.predictor import Predictor
from netadapt_onnx.search.prepared_model import PreparedModel
from netadapt_onnx.search.proposals import TOGETHER, Amounts, Proposal, joint_proposal
from netadapt_onnx.search.result import Share
from netadapt_onnx.search.schedule import Schedule


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
        return "the model meets this budget already: nothing to do"


def out_of_reach(resource: str, share: float, *, is_exact: bool) -> str:
    """What is said of a budget that the narrowest model, which takes `share` of the original's resource, exceeds."""
    still = "still takes" if is_exact else "is predicted to still take"
    return (
        f"No widths meet the budget: the narrowest model {still} {share:.3g}x of the original's {resource}, "
        "so ask for more than that"
    )


@dataclass(frozen=True)
class ProblemBuilder:
    """States the problem of each target of a run."""

    context: SearchContext
    limits: Limits

    def problem(self, target: Target, since: int) -> Problem:
        """The problem of a target, after the first `since` iterations."""
        context, options = self.context, self.context.options
        original = self._evaluated_original()
        # A measurement must hold the budget with its whole interval, so the search aims safely below.
        margins = dict.fromkeys(context.budget_checks, SAFETY_MARGIN)
        limits = {name: limit * margins.get(name, 1.0) for name, limit in self.limits.of(target).items()}
        correction = self.limits.start_correction()
        return Problem(
            choices=context.prepared.choices,
            resources=context.predict,
            limits=limits,
            start=Accepted(original["held_out"], original["ranked"], correction),
            schedule=self._schedule(limits),
            max_iterations=options.max_iterations,
            select=options.select,
            finalists=context.trials.finalists,
            prune_small=options.prune_small,
            since=since,
            margins={name: margin for name, margin in margins.items() if name in limits},
        )

    def smallest(self, problem: Problem) -> dict[str, float]:
        """The resources of the narrowest model; if the table predicts that it is too slow, the device measures it."""
        prepared, correction = self.context.prepared, problem.start.correction
        amounts = {n: v * correction.get(n, 1.0) for n, v in self.context.predict(prepared.floor).items()}
        for name, check in self.context.budget_checks.items():
            if amounts[name] > problem.limits.get(name, math.inf):
                amounts[name] = check.smallest(prepared.smallest(), amounts[name])
        return amounts

    def note_out_of_reach(self, problem: Problem, smallest: Amounts) -> bool:
        """Whether no widths are within the limits, which is then noted."""
        too_low = [name for name, limit in problem.limits.items() if smallest[name] > limit]
        if not too_low:
            return False
        original = self.limits.original[too_low[0]] * problem.start.correction.get(too_low[0], 1.0)
        name, share = too_low[0], smallest[too_low[0]] / original
        check = self.context.budget_checks.get(name)
        is_exact = check is None or check.measures
        self.context.notes.add(out_of_reach(name, share, is_exact=is_exact))
        return True

    def jump(self, smallest: Amounts) -> Proposal:
        """The narrowest model as a proposal."""
        floor = self.context.prepared.floor
        return joint_proposal("narrowest", floor, smallest)

    def jump_step(self, problem: Problem, jump: Proposal, accepted: Accepted) -> Step:
        """The first step, which makes the narrowest model the current one."""
        driver = next(iter(problem.limits))
        channels = (sum(self.context.prepared.widths.values()), jump.channels)
        target = problem.limits[driver]
        return Step(1, TOGETHER, channels, jump.widths, driver, target, jump.resources, accepted, (), ())

    def _evaluated_original(self) -> dict[str, float]:
        """The accuracies of the original; the time for the result's measurements is reserved by what they took."""
        context = self.context
        run, evaluator, proto = context.run, context.evaluator, context.prepared.trace.folded.proto
        began = run.seconds()
        accuracies: dict[str, float] = run.once(
            "accuracy/original",
            lambda: dict(zip(("held_out", "ranked"), evaluator.held_out(proto), strict=True)),
        )
        if context.prepared.data is not None:
            val, held_out = context.prepared.data.val, accuracies["held_out"]
            if note := guessing_note("The original", val, val.metric, held_out):
                context.notes.add(note)
        context.time_limit.reserve(4 * (run.seconds() - began) + CAREFUL_S * len(context.budget_checks))
        return accuracies

    def _schedule(self, limits: Amounts) -> Schedule:
        """The user's schedule, its decay raised if it could not reach the budget otherwise."""
        context, options = self.context, self.context.options
        iterations = options.max_iterations
        original, floor = context.predict(context.prepared.widths), context.predict(context.prepared.floor)
        first = options.targets[0][0].resource
        initial = original[first] * self.limits.start_correction().get(first, 1.0)
        ratio = options.first_reduction(initial)
        requested = Schedule(ratio, options.decay, options.reduction_of)
        if any(floor[name] > limit for name, limit in limits.items()):
            return requested  # no schedule reaches that
        ways = [(original[name], limit) for name, limit in limits.items()]
        if options.begins_with_curves:  # in one iteration, so that the others have but the rest of the way to go
            ways = [(start, start - (1 - context.trials.start_share) * (start - end)) for start, end in ways]
            iterations -= 1
        raised = max(requested.reaching(start, end, iterations).decay for start, end in ways)
        schedule = replace(requested, decay=context.run.once("decay", lambda: raised))
        if schedule.decay > requested.decay:
            context.notes.add(
                f"Iterations that begin with {requested.ratio:g} and decay by {requested.decay:g} do not reach the "
                f"budget in {options.max_iterations} iterations, so --decay {schedule.decay:.4g} is used"
            )
        if any(schedule.reach(start, iterations) > end for start, end in ways):
            context.notes.add(
                f"{options.max_iterations} iterations may be too few; raise --max-iterations or --init-reduction-ratio"
            )
        return schedule
