"""The iterations of one search: proposals are evaluated, the winner is accepted, and the next one starts from it.

They begin where the history ends, and go on until the loop ends, or the user's time or accuracy ends it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from functools import cached_property

from netadapt_onnx.search.budget_convergence import BudgetConvergence
from netadapt_onnx.search.candidates import Candidates
from netadapt_onnx.search.context import SearchContext
from netadapt_onnx.search.methods import Methods, PortfolioPlan
from netadapt_onnx.search.netadapt import TRAINED, Problem, Step, amounts_after, met
from netadapt_onnx.search.next_step import next_step
from netadapt_onnx.search.progress import IterationLog, excess
from netadapt_onnx.search.proposals import TOGETHER
from netadapt_onnx.search.result import Stopped
from netadapt_onnx.search.run_directory.journal import Lines
from netadapt_onnx.search.target_problem import ProblemBuilder


class IterationLoop:
    """Does iterations and appends them to the history.

    Attributes:
        cut_short: Why the search was ended before its loop was, if it was.
    """

    def __init__(
        self,
        context: SearchContext,
        problems: ProblemBuilder,
        candidates: Candidates,
        convergence: BudgetConvergence,
        log: IterationLog,
    ) -> None:
        """Begin with no iteration."""
        self._context = context
        self._problems = problems
        self._candidates = candidates
        self._convergence = convergence
        self._log = log
        self.cut_short: Stopped | None = None

    def run(self, problem: Problem, history: Lines[Step]) -> list[Step]:
        """Go on from the history until the loop ends; returns all steps."""
        smallest = self._problems.smallest(problem)
        if self._problems.note_out_of_reach(problem, smallest) and not history.items:
            # Every path ends with all groups at their floor, so go there at once.
            jump = self._problems.jump(smallest)
            history.append(self._problems.jump_step(problem, jump, self._candidates.accept(1, jump)))
        steps = [self._convergence.corrected(step) for step in history.items]
        self._candidates.resume(len(steps))
        self._context.reporter.begin(excess(amounts_after(problem, steps), problem.limits))
        for step in self._context.time_limit.iterations(self._iterations(problem, steps)):
            if self._is_below_floor(step):
                self._candidates.resume(len(steps))
                break
            history.append(step)
            steps.append(step)
            self._report(problem, steps)
            self._context.on_iteration()
            self._forget_model_before(problem, steps)
        if self._context.time_limit.over:
            self._stop("max-time", self._context.time_limit.over)
        return steps

    def replay(self, history: Lines[Step], iterations: int) -> list[Step]:
        """The first steps of the history, with which a search ended before; the last one's model becomes current."""
        steps = [self._convergence.corrected(step) for step in history.items[:iterations]]
        self._candidates.resume(iterations)
        return steps

    def _iterations(self, problem: Problem, steps: list[Step]) -> Iterator[Step]:
        """Accepted steps from the end of `steps`, to which each is added before the next is done.

        Nothing is given back to a trained model, nor where a device has been too busy to decide whether there is room.
        """
        trained = self._candidates.trained
        while True:
            unclear = any(self._convergence.is_unclear(step.iteration) for step in steps[problem.since :])
            now = replace(problem, may_widen=not trained and not unclear)
            trimming = any(step.group == TRAINED for step in steps[problem.since :])
            step = next_step(now, self._candidates, steps, None if trimming else self._methods)
            if step is None:
                return
            yield step

    @cached_property
    def _methods(self) -> Methods:
        """What takes part in a search besides NetAdapt's loop, by the user's options."""
        options, candidates, prepared = self._context.options, self._candidates, self._context.prepared
        if prepared.data is None:
            return Methods(knapsack=candidates.importances if options.strategy == "knapsack" else None)
        trial_steps = self._context.trials.portfolio
        plan = PortfolioPlan(
            options.strategy,
            losses=None if options.strategy == "curves" else candidates.losses,
            importances=candidates.original_importances if trial_steps and options.strategy != "knapsack" else None,
            branches=tuple(branch.name for branch in prepared.branches),
            train_steps=trial_steps,
            own_is_solved=candidates.solves_winners,
        )
        return Methods(
            knapsack=candidates.importances if options.strategy == "knapsack" else None,
            curves=candidates.losses if options.strategy == "curves" else None,
            start=candidates.losses if options.begins_with_curves else None,
            start_share=self._context.trials.start_share,
            errors=candidates.errors if options.proposals == "lazy" else None,
            portfolio=None if options.portfolio == "off" else plan,
            draws=options.draws,
        )

    def _is_below_floor(self, step: Step) -> bool:
        """Whether a step goes below the user's least accuracy, which then ends the search."""
        least = self._context.options.min_accuracy  # R2 may be below zero: no floor is not a floor of zero
        if least is None or step.accepted.accuracy >= least:
            return False
        note = (
            f"The next iteration would leave an accuracy of {step.accepted.accuracy:.4f}, below --min-accuracy {least}"
        )
        if step.group == TOGETHER:
            note += "; --strategy netadapt --start original goes there in smaller steps"
        self._stop("accuracy-floor", note)
        return True

    def _report(self, problem: Problem, steps: list[Step]) -> None:
        """Log the last step, and show how far the search has come."""
        before = steps[-2].widths if steps[1:] else {}
        self._context.log(self._log.line(steps[-1], before, problem.limits))
        summary = self._log.summary(steps[-1], problem.limits)
        self._context.reporter.step(summary, excess(amounts_after(problem, steps), problem.limits))

    def _forget_model_before(self, problem: Problem, steps: list[Step]) -> None:
        """Remove the model before the last step's, unless it is to be saved or the search may come back to it."""
        before = len(steps) - 1
        saved = before % self._context.options.save_interval == 0
        if not saved and not met(amounts_after(problem, steps[:before]), problem.limits):
            self._candidates.forget(before)

    def _stop(self, why: Stopped, note: str) -> None:
        self.cut_short = why
        self._context.notes.add(note)
