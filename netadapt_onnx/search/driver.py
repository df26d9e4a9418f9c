"""The driver of a run: one target after the other, in a run directory from which it can be continued at any time."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from netadapt_onnx.common.budget import Target, file_name
from netadapt_onnx.graph.model import load
from netadapt_onnx.search.budget_check.check import BudgetCheck
from netadapt_onnx.search.budget_check.measurements import CAREFUL_S, undecided_count
from netadapt_onnx.search.budget_convergence import BudgetConvergence
from netadapt_onnx.search.candidates import Candidates
from netadapt_onnx.search.context import SearchEnvironment, search_context
from netadapt_onnx.search.executors.protocol import Executor
from netadapt_onnx.search.final_training import FinalTraining, cut_again_note
from netadapt_onnx.search.iteration_loop import IterationLoop
from netadapt_onnx.search.netadapt import TRAINED, Step, amounts_after, met
from netadapt_onnx.search.outcome import Outcome
from netadapt_onnx.search.prepared_model import PreparedModel
from netadapt_onnx.search.progress import IterationLog
from netadapt_onnx.search.result import UNDECIDED, AdaptResult, TargetResult
from netadapt_onnx.search.run_directory.file_names import MODEL_FILE
from netadapt_onnx.search.run_directory.journal import Lines
from netadapt_onnx.search.run_directory.layer_changes import write_details
from netadapt_onnx.search.run_directory.pareto import Point, write_front
from netadapt_onnx.search.run_directory.result_files import read_result, read_target, write_result, write_target
from netadapt_onnx.search.target_problem import Limits, ProblemBuilder
from netadapt_onnx.search.target_search import Reached, TargetSearch

MODELS = "models"


class SearchDriver:
    """Searches for a model for every target of a run, and writes what the run comes to."""

    def __init__(
        self,
        environment: SearchEnvironment,
        prepared: PreparedModel,
        budget_checks: Mapping[str, BudgetCheck],
        executor: Executor,
    ) -> None:
        """Drive a search.

        Args:
            environment: What the search runs in.
            prepared: The model and the data.
            budget_checks: The check of every resource that is measured.
            executor: Does the jobs of proposals.
        """
        context = search_context(environment, prepared, budget_checks)
        self._context = context
        self._run = context.run
        self._targets = context.options.targets
        self._limits = Limits(prepared, context.budget_checks, context.predict)
        self._problems = ProblemBuilder(context, self._limits)
        self._outcome = Outcome(context, self._limits)
        self._convergence = BudgetConvergence(context.budget_checks, context.predict)
        log = IterationLog(context.budget_checks, self._limits.original, context.evaluator.metric)
        self._candidates = Candidates(context, executor)
        self._training = FinalTraining(context, self._candidates)
        self._loop = IterationLoop(context, self._problems, self._candidates, self._convergence, log)

    def result(self) -> AdaptResult:
        """Search for every target, and write the result; the result of a run that has ended is read back."""
        history = self._run.history(Step, self._iterations_in_journal())
        finished = read_result(self._run, self._context.options.max_iterations)
        if finished is not None:
            return finished
        # For a report on a run that has not ended: the original's amounts are known nowhere else until then.
        self._run.once("original/amounts", lambda: self._limits.original)
        models: list[TargetResult] = []
        for number, target in enumerate(self._targets, 1):
            models.append(self._reach_target(number, target, history))
            if models[-1].stopped not in ("met", "nothing-to-do"):
                break
        if models[-1].stopped == UNDECIDED:
            self._run.once(f"{UNDECIDED}/{undecided_count(self._run) + 1}", lambda: models[-1].notes)
        self._write_front(models, history)
        result = AdaptResult.of_targets(models, self._run.seconds(), self._context.notes.texts)
        folded = self._context.fold(load(models[-1].model).proto)
        by_layer = {name: check.prediction.by_layer for name, check in self._context.budget_checks.items()}
        details = write_details(self._run.path, self._context.prepared.trace, folded, by_layer)
        self._run.journal.seal(details)
        write_result(self._run, result, models)
        return result

    def _reach_target(self, number: int, target: Target, history: Lines[Step]) -> TargetResult:
        """The model for one target, from where the target before it has ended."""
        since = self._iterations_of(number - 1)
        for budget in target:
            if budget.resource in self._context.budget_checks:
                self._context.budget_checks[budget.resource].prediction.set_target(budget, since)
        problem = self._problems.problem(target, since)
        file = self._model_file(number, target)
        file.parent.mkdir(exist_ok=True)
        ended = self._run.recall(f"target/{number}")
        finished = None if ended is None else read_target(self._run, number)
        if finished is not None:
            return finished
        if met(amounts_after(problem, ()), self._limits.of(target)):
            self._context.notes.add(f"{', '.join(map(str, target))}: {self._limits.note_on_met(target)}")
            original = self._context.prepared.trace.folded.proto
            return self._outcome.finished(original, target, [], "nothing-to-do", file)
        context, candidates, training = self._context, self._candidates, self._training
        search = TargetSearch(context, self._loop, candidates, self._convergence, training, problem, target, history)
        if ended is not None:
            reached = search.replay(ended["steps"], ended.get("why", "met"), ended["seen"])
        else:
            reached = search.reach()
            if reached.stopped in ("met", "missed"):
                end = {"steps": len(reached.steps), "seen": reached.seen, "why": reached.stopped}
                self._run.once(f"target/{number}", lambda: end)
        finished = self._finish(target, reached, since, history, file)
        write_target(self._run, number, finished)
        return finished

    def _finish(self, target: Target, reached: Reached, since: int, history: Lines[Step], file: Path) -> TargetResult:
        """Write the model of a target, and note what its user should know."""
        steps, seen = reached.steps, reached.seen
        if steps and self._context.budget_checks and self._run.left_s() < CAREFUL_S:
            self._context.notes.add("The result was measured for a shorter time than usual to keep --max-time")
        finished = self._outcome.finished(reached.proto, target, steps, reached.stopped, file)
        notes = [cut_again_note(step.iteration) for step in history.items[since:seen] if step.group == TRAINED]
        if finished.stopped != UNDECIDED and len(steps) < seen:
            notes.append(
                f"The result is the model of iteration {len(steps)}: no later one within the budget was better"
            )
        return replace(finished, notes=(*finished.notes, *notes))

    def _write_front(self, models: Sequence[TargetResult], history: Lines[Step]) -> None:
        """Write the models of the run that no other of it beats."""
        correction = self._limits.start_correction()
        amounts = {name: value * correction.get(name, 1.0) for name, value in self._limits.original.items()}
        accuracy = self._run.recall("accuracy/original")["held_out"]
        original = Point("original", 0, accuracy, amounts, self._context.prepared.widths, None)
        resources = [budget.resource for budget in self._targets[-1]]
        write_front(self._run, original, history.items, models, resources)

    def _model_file(self, number: int, target: Target) -> Path:
        name = MODEL_FILE if number == len(self._targets) else f"{MODELS}/{file_name(target)}"
        return self._run.path / name

    def _iterations_of(self, number: int) -> int:
        """How many iterations there were when a target was met; 0 for one that was not."""
        ended = self._run.recall(f"target/{number}")
        return 0 if ended is None else int(ended["seen"])

    def _iterations_in_journal(self) -> int:
        """The most iterations that an entry of the journal is of."""
        targets = [self._iterations_of(number) for number in range(1, len(self._targets) + 1)]
        trained = [int(e.key.rpartition("/")[2]) for e in self._run.entries if e.key.startswith("landed/")]
        return max((*targets, *trained))
