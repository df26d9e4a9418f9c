"""The search for one target: steps to a model within the budget, and the final training of that model.

Whether the widths are within the budget is measured before the final training, which changes no width. If they turn out
not to be after it, the trained model is cut a little more and trained a little more.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import onnx

from netadapt_onnx.common.budget import Target
from netadapt_onnx.search.budget_convergence import BudgetConvergence
from netadapt_onnx.search.candidates import Candidates
from netadapt_onnx.search.context import SearchContext
from netadapt_onnx.search.final_training import FinalTraining, cut_again_note
from netadapt_onnx.search.iteration_loop import IterationLoop
from netadapt_onnx.search.netadapt import Problem, Step, amounts_after, met
from netadapt_onnx.search.result import UNDECIDED, Stopped
from netadapt_onnx.search.run_directory.journal import Lines


@dataclass(frozen=True)
class Reached:
    """The end of the search for a target.

    Attributes:
        steps: The steps to the model.
        proto: The model, trained where that was possible.
        stopped: Why there are no more steps.
        seen: The number of iterations that were looked at.
    """

    steps: Sequence[Step]
    proto: onnx.ModelProto
    stopped: Stopped
    seen: int


@dataclass(frozen=True)
class _Searched:
    """The end of the loop: its best steps, whether they are within the limits, and whether that remained unclear."""

    steps: list[Step]
    within: bool
    unclear: bool


@dataclass(frozen=True)
class TargetSearch:
    """Searches for a model for one target, from the end of the history.

    Attributes:
        context: The search.
        loop: Does the iterations.
        candidates: The current model.
        convergence: What careful measurements say.
        training: The final training.
        problem: The problem of the target.
        target: The budgets.
        history: The accepted iterations of the run.
    """

    context: SearchContext
    loop: IterationLoop
    candidates: Candidates
    convergence: BudgetConvergence
    training: FinalTraining
    problem: Problem
    target: Target
    history: Lines[Step]

    def reach(self) -> Reached:
        """Search, train and measure, until the model is within the budget, or no more can be done."""
        while True:
            searched = self._search()
            reached = self._train(searched)
            if reached is not None:
                return reached

    def replay(self, iterations: int, stopped: Stopped, seen: int) -> Reached:
        """The end of a search that has ended before: the trained model is read back."""
        steps = self.loop.replay(self.history, iterations)
        return Reached(steps, self.training.train(steps, self.problem.since), stopped, seen)

    def _search(self) -> _Searched:
        """Do iterations until careful measurements agree that the model is within the budget, or none can be done."""
        problem, target, convergence = self.problem, self.target, self.convergence
        while True:
            # A model that was trained to be measured, before its measurement: that must not change which model it is.
            converged_at = self.context.run.recall(self._converged_key)
            if converged_at is not None:
                return _Searched(self.loop.replay(self.history, converged_at), within=True, unclear=False)
            steps = self.loop.run(problem, self.history)
            within = met(amounts_after(problem, steps), problem.limits)
            verifies = within and self.loop.cut_short is None
            if verifies and convergence.needs_measurement(target, "searched", problem.since, len(steps)):
                convergence.measure(target, "searched", len(steps), self.candidates.current.folded.proto)
                if convergence.verdict(target, "searched", len(steps)) != "unclear":
                    continue  # with that measurement: it is too slow, or there is room to give channels back
            best = convergence.best(problem, target, steps)
            if best is not None:
                within, steps = True, steps[:best]
                self.candidates.resume(best)
            unclear = verifies and convergence.verdict(target, "searched", len(steps)) == "unclear"
            return _Searched(steps, within, unclear)

    def _train(self, searched: _Searched) -> Reached | None:
        """Train the model and measure it; None if the search goes on from the trained model."""
        steps, seen = searched.steps, len(self.history.items)
        proto = self.candidates.current.folded.proto
        if searched.unclear:
            return Reached(steps, proto, UNDECIDED, seen)
        trained = proto if self.loop.cut_short == "max-time" else self.training.train(steps, self.problem.since)
        if not searched.within or self.loop.cut_short is not None:
            return Reached(steps, trained, self._why_not(steps), seen)
        if trained is not proto:
            self.context.run.once(self._converged_key, partial(len, steps))
        stopped = self._verify(steps, trained)
        if stopped is not None:
            return Reached(steps, trained, stopped, seen)
        if trained is not proto:  # an untrained model is cut on with that measurement
            self._adopt(steps, trained)
        return None

    def _verify(self, steps: Sequence[Step], trained: onnx.ModelProto) -> Stopped | None:
        """Measure the trained model, and say why the search ends; None if it goes on."""
        since, convergence = self.problem.since, self.convergence
        has_rounds = convergence.has_rounds(self.target, "final", since, len(steps))
        if convergence.needs_measurement(self.target, "final", since, len(steps)):
            convergence.measure(self.target, "final", len(steps), trained)
        verdict = convergence.verdict(self.target, "final", len(steps))
        if verdict == "unclear":
            return UNDECIDED
        if verdict == "met" or not has_rounds:
            return verdict
        exhausted = len(self.history.items) + 2 > self.problem.max_iterations
        return "max-iterations" if exhausted else None

    def _adopt(self, steps: Sequence[Step], trained: onnx.ModelProto) -> None:
        """Go on from the trained model of the last step: it becomes an iteration of its own, after all others."""
        iteration = len(self.history.items) + 1
        self.context.log(cut_again_note(iteration))
        self.history.append(self.training.adopt(self.convergence.corrected(steps[-1]), iteration, trained))

    def _why_not(self, steps: Sequence[Step]) -> Stopped:
        """Why the budget was not reached, or nothing was measured any more."""
        if self.loop.cut_short is not None:
            return self.loop.cut_short
        return "max-iterations" if len(steps) >= self.problem.max_iterations else "no-way-down"

    @property
    def _converged_key(self) -> str:
        """The journal's key of the number of steps to the model that was trained to be measured."""
        return f"landed/{self.problem.since}/{len(self.history.items)}"
