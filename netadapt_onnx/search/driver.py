"""One adaptation from start to end, in a run directory from which every moment of it can be continued."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial

import onnx

from netadapt_onnx.common.budget import Target, file_name
from netadapt_onnx.common.progress import Progress, stage
from netadapt_onnx.common.provenance import provenance, stored_bytes
from netadapt_onnx.graph.model import load
from netadapt_onnx.profilers.execution import Execution
from netadapt_onnx.search import knapsack
from netadapt_onnx.search.budget_convergence import BudgetConvergence
from netadapt_onnx.search.candidates import Candidates
from netadapt_onnx.search.evaluator import judge_for
from netadapt_onnx.search.executors.protocol import Executor
from netadapt_onnx.search.final_training import FinalTraining, cut_again
from netadapt_onnx.search.iteration_lines import IterationLines
from netadapt_onnx.search.latency_check import AIM, CAREFUL_S, MeasuredLatency
from netadapt_onnx.search.latency_journal import UNDECIDED, undecided
from netadapt_onnx.search.netadapt import TOGETHER, TRAINED, Accepted, Problem, Step, amounts_after, met, search
from netadapt_onnx.search.options import Arguments
from netadapt_onnx.search.outcome import Outcome
from netadapt_onnx.search.prepared_model import Predictor, PreparedModel
from netadapt_onnx.search.progress_reporter import ProgressReporter, excess
from netadapt_onnx.search.proposal import Proposal
from netadapt_onnx.search.result import AdaptResult, Finished, Stopped
from netadapt_onnx.search.run_directory.details import write_details
from netadapt_onnx.search.run_directory.journal import Lines
from netadapt_onnx.search.run_directory.pareto import Point, write_front
from netadapt_onnx.search.run_directory.result_file import read_result, read_target, write_result, write_target
from netadapt_onnx.search.run_directory.run import Run
from netadapt_onnx.search.schedule import Schedule
from netadapt_onnx.search.time_limit import TimeLimit
from netadapt_onnx.search.worker import MODEL_FILE

MODELS = "models"


class SearchDriver:
    """A run at work, its jobs done by `executor`.

    `log` gets a line per event, `progress` follows what takes long; `gauges` measure latencies. `notes` are known.
    """

    def __init__(
        self,
        run: Run,
        subject: PreparedModel,
        arguments: Arguments,
        gauges: Mapping[str, MeasuredLatency],
        executor: Executor,
        progress: Progress,
        log: Callable[[str], None],
        execution: Execution,
        notes: Sequence[str] = (),
    ) -> None:
        self._run = run
        self._subject = subject
        self._arguments = arguments
        self._gauges = dict(gauges)
        self._log = log
        self._notes = list(notes)
        self._cut_short: Stopped | None = None
        self._targets = arguments.targets
        self._judge = judge_for(subject, arguments)
        metadata = _said(subject, arguments)
        # Reserved whatever a resume changes: its predictions must be those of a run that was not stopped.
        extra = stored_bytes(_said(subject, arguments.with_longest_values()))
        predicted = {name: gauge.predicted for name, gauge in gauges.items()}
        spent = {name: gauge.spent_ms for name, gauge in gauges.items()}
        self._predict = Predictor(subject.trace, extra, predicted, subject.branches, spent)
        self._outcome = Outcome(run, subject, arguments, self._gauges, self._judge, self._predict, metadata, execution)
        self._landing = BudgetConvergence(self._gauges, self._predict)
        self._lines = IterationLines(self._gauges, self._outcome.original, self._judge.metric)
        self._standing = ProgressReporter(progress)
        self._time = TimeLimit(run)
        self._candidates = Candidates(
            run,
            subject.trace,
            arguments,
            self._judge,
            subject.data,
            executor,
            self._standing,
            self._time,
            subject.branches,
            log,
        )
        self._training = FinalTraining(
            run,
            subject,
            arguments,
            self._candidates,
            self._judge,
            self._outcome,
            self._standing,
            self._time,
            self._note,
        )

    def result(self) -> AdaptResult:
        """Search, train, verify, write, for one target after the other; of a finished run what it came to."""
        history = self._run.history(Step, self._seen_by_any())
        finished = read_result(self._run, self._arguments.max_iterations)
        if finished is not None:
            return finished
        models: list[Finished] = []
        for number, target in enumerate(self._targets, 1):
            models.append(self._reach_target(number, target, self._seen(number - 1), history))
            if models[-1].stopped not in ("met", "nothing-to-do"):
                break
        if models[-1].stopped == UNDECIDED:
            self._run.once(f"{UNDECIDED}/{undecided(self._run) + 1}", lambda: models[-1].notes)
        first = {n: a * self._start_correction().get(n, 1.0) for n, a in self._outcome.original.items()}
        known = self._run.recall("accuracy/original")
        original = Point("original", 0, known["held_out"], first, self._subject.widths, None)
        names = [budget.resource for budget in self._targets[-1]]
        write_front(self._run, original, history.items, models, names)
        result = self._outcome.result(models, self._notes)
        folded = self._outcome.folded(load(models[-1].model).proto)
        self._run.journal.seal(write_details(self._run.path, self._subject.trace, folded, self._gauges))
        write_result(self._run, result, models)
        return result

    def _reach_target(self, number: int, target: Target, since: int, history: Lines[Step]) -> Finished:
        """A model for one target, by going on from what the one before left after `since` iterations."""
        for budget in (b for b in target if b.resource in self._gauges):
            self._gauges[budget.resource].set_target(budget, since)
        problem = self._problem(target, since)
        file = self._run.path / (MODEL_FILE if number == len(self._targets) else f"{MODELS}/{file_name(target)}")
        file.parent.mkdir(exist_ok=True)
        ended = self._run.recall(f"target/{number}")
        known = None if ended is None else read_target(self._run, number)
        if known is not None:
            return known
        if met(amounts_after(problem, ()), self._outcome.limits(target)):
            self._note(f"{', '.join(map(str, target))}: {self._outcome.already(target)}")
            original = self._subject.trace.folded.proto
            return self._outcome.finished(original, target, [], "nothing-to-do", file)
        if ended is None:
            steps, proto, stopped, seen = self._reached(problem, target, since, history)
            if stopped in ("met", "missed"):
                ended = self._run.once(f"target/{number}", lambda: {"steps": len(steps), "seen": seen, "why": stopped})
        else:
            steps = self._search(problem, history, ended["steps"])
            proto, stopped, seen = self._training.trained(steps, since), ended.get("why", "met"), ended["seen"]
        if steps and self._gauges and self._run.left_s() < CAREFUL_S:
            self._note("the result is measured for a shorter time: --max-time")
        found = self._outcome.finished(proto, target, steps, stopped, file)
        again = [cut_again(step.iteration) for step in history.items[since:seen] if step.group == TRAINED]
        found = replace(found, notes=(*found.notes, *again))
        if found.stopped != UNDECIDED and len(steps) < seen:
            said = f"the model is that of iteration {len(steps)}: none that followed was better within the budget"
            found = replace(found, notes=(*found.notes, said))
        write_target(self._run, number, found)
        return found

    def _reached(
        self, problem: Problem, target: Target, since: int, history: Lines[Step]
    ) -> tuple[list[Step], onnx.ModelProto, Stopped, int]:
        """The steps to a model within the budget, that model, why no more were made, and how many were looked at.

        Whether its widths are within the budget is measured before the final training, which changes no width. If they
        turn out not to be after it, the trained model is cut a little more and trained a little more.
        """
        while True:
            # What was trained to be judged, before its measurement: that must not change what it is.
            known = self._run.recall(f"landed/{since}/{len(history.items)}")
            steps = self._search(problem, history, known)
            within = known is not None or met(amounts_after(problem, steps), problem.limits)
            asked = known is None and within and self._cut_short is None
            if asked and self._landing.to_judge(target, "searched", since, len(steps)):
                self._landing.measure(target, "searched", len(steps), self._candidates.current.folded.proto)
                if self._landing.verdict(target, "searched", len(steps)) != "unclear":
                    continue  # from what that found: it is too slow, or there is room to give channels back
            seen = len(history.items)
            best = self._landing.best(problem, target, steps) if known is None else None
            if best is not None:
                within, steps = True, steps[:best]
                self._candidates.resume(best)
            searched = self._candidates.current.folded.proto
            if asked and self._landing.verdict(target, "searched", len(steps)) == "unclear":
                return steps, searched, UNDECIDED, seen
            proto = searched if self._cut_short == "max-time" else self._training.trained(steps, since)
            if not within or self._cut_short is not None:
                return steps, proto, self._why_not(problem, steps), seen
            if proto is not searched:
                self._run.once(f"landed/{since}/{seen}", partial(len, steps))
            goes_on = self._landing.rounds_left(target, "final", since, len(steps))
            if self._landing.to_judge(target, "final", since, len(steps)):
                self._landing.measure(target, "final", len(steps), proto)
            verdict = self._landing.verdict(target, "final", len(steps))
            if verdict == "unclear":
                return steps, proto, UNDECIDED, seen
            exhausted = len(history.items) + 2 > problem.max_iterations
            if verdict == "met" or not goes_on or exhausted:
                return steps, proto, "max-iterations" if verdict == "missed" and goes_on else verdict, seen
            if proto is not searched:  # what was not trained is cut on from what that found
                self._adopt(history, steps, proto)

    def _adopt(self, history: Lines[Step], steps: Sequence[Step], proto: onnx.ModelProto) -> None:
        """Go on from the trained model of the last of `steps`: an iteration of its own after all that were made."""
        iteration = len(history.items) + 1
        self._log(cut_again(iteration))
        history.append(self._training.adopted(self._landing.with_verdict(steps[-1]), iteration, proto))

    def _why_not(self, problem: Problem, steps: Sequence[Step]) -> Stopped:
        """Why the budget was not reached, or nothing was measured any more."""
        if self._cut_short is not None:
            return self._cut_short
        return "max-iterations" if len(steps) >= problem.max_iterations else "no-way-down"

    def _seen(self, number: int) -> int:
        """How many iterations there were when a target was met."""
        ended = self._run.recall(f"target/{number}")
        return 0 if ended is None else int(ended["seen"])

    def _seen_by_any(self) -> int:
        """How many iterations there were when anything was journalled that speaks of them."""
        targets = [self._seen(number) for number in range(1, len(self._targets) + 1)]
        landed = [int(e.key.rpartition("/")[2]) for e in self._run.entries if e.key.startswith("landed/")]
        return max((*targets, *landed))

    def _start_correction(self) -> dict[str, float]:
        return {name: gauge.start_correction() for name, gauge in self._gauges.items()}

    def _problem(self, target: Target, since: int) -> Problem:
        original, began = self._subject.trace.folded.proto, self._run.seconds()
        known = self._run.once(
            "accuracy/original",
            lambda: {"held_out": self._judge.held_out(original), "ranked": self._judge.ranked(original)},
        )
        self._time.reserve(2 * (self._run.seconds() - began) + CAREFUL_S * len(self._gauges))
        # A measurement must hold the budget with its whole interval, so the search aims safely below.
        limits = {n: v * AIM if n in self._gauges else v for n, v in self._outcome.limits(target).items()}
        correction = self._start_correction()
        return Problem(
            ladders=self._subject.ladders,
            resources=self._predict,
            limits=limits,
            start=Accepted(known["held_out"], known["ranked"], correction),
            rank=self._candidates.rank,
            accept=self._accept,
            schedule=self._schedule(limits),
            select=self._arguments.select,
            max_iterations=self._arguments.max_iterations,
            prune_small=self._arguments.prune_small,
            refine=self._candidates.refine if self._arguments.finalists else None,
            finalists=self._arguments.finalists,
            since=since,
            margins={name: AIM for name in limits if name in self._gauges},
        )

    def _schedule(self, limits: dict[str, float]) -> Schedule:
        """The schedule asked for, its decay raised if it could not reach the budget otherwise."""
        iterations = self._arguments.max_iterations
        original, floor = self._predict(self._subject.widths), self._predict(self._subject.floor)
        first = self._targets[0][0].resource
        initial = original[first] * self._start_correction().get(first, 1.0)
        ratio = self._arguments.first_reduction(initial)
        asked = Schedule(ratio, self._arguments.decay, self._arguments.reduction_of)
        if any(floor[name] > limit for name, limit in limits.items()):
            return asked  # no schedule reaches that
        ways = [(original[name], limit) for name, limit in limits.items()]
        raised = max(asked.reaching(start, end, iterations).decay for start, end in ways)
        schedule = replace(asked, decay=self._run.once("decay", lambda: raised))
        if schedule.decay > asked.decay:
            self._note(
                f"steps of {asked.ratio:g}, each {asked.decay:g} of the one before, do not reach the budget in "
                f"{iterations} iterations: --decay is {schedule.decay:.4g} instead"
            )
        if any(schedule.reach(start, iterations) > end for start, end in ways):
            self._note(f"{iterations} iterations may be too few: raise --max-iterations or --init-reduction-ratio")
        return schedule

    def _search(self, problem: Problem, history: Lines[Step], ended: int | None) -> list[Step]:
        """Go on from the history until the loop ends; returns all steps, those up to `ended` if it has ended before."""
        if ended is not None:
            steps = [self._landing.with_verdict(step) for step in history.items[:ended]]
            self._candidates.resume(ended)
            return steps
        floor = self._smallest(problem)
        too_low = [name for name, limit in problem.limits.items() if floor[name] > limit]
        if too_low:
            corrected = self._outcome.original[too_low[0]] * problem.start.correction.get(too_low[0], 1.0)
            share = floor[too_low[0]] / corrected
            self._note(f"no width is small enough: {too_low[0]} is at least {share:.3g}x of the original's")
            if not history.items:  # every path ends with all groups at their floor, so go there at once
                history.append(self._jump(problem, floor))
        steps = [self._landing.with_verdict(step) for step in history.items]
        self._candidates.resume(len(steps))
        self._standing.begin(excess(amounts_after(problem, steps), problem.limits))
        for step in self._time.iterations(self._steps(problem, steps)):
            least = self._arguments.min_accuracy  # R2 may be below zero: no floor is not a floor of zero
            if least is not None and step.accepted.accuracy < least:
                self._stop("accuracy-floor", f"the next step would leave {step.accepted.accuracy:.4f}, below the floor")
                self._candidates.resume(len(steps))
                break
            history.append(step)
            steps.append(step)
            self._log(self._lines.full(step, problem.limits))
            self._standing.step(
                self._lines.short(step, problem.limits), excess(amounts_after(problem, steps), problem.limits)
            )
            before = step.iteration - 1
            # One that is within the budget may be what the run comes back to.
            if before % self._arguments.save_interval and not met(
                amounts_after(problem, steps[:before]), problem.limits
            ):
                self._candidates.forget(before)
        if self._time.over:
            self._stop("max-time", self._time.over)
        return steps

    def _steps(self, problem: Problem, steps: list[Step]) -> Iterator[Step]:
        """Accepted steps from the end of `steps`, to which each is added before the next is made.

        Nothing is given back to a trained model, nor where a device has been too busy to tell whether there is room.
        """
        trained = self._candidates.trained
        while True:
            unclear = any(self._landing.unclear(step.iteration) for step in steps[problem.since :])
            now = replace(problem, widens=not trained and not unclear)
            trimming = any(step.group == TRAINED for step in steps[problem.since :])
            if self._arguments.strategy == "knapsack" and not trimming:
                importances = stage("scoring channels")(self._candidates.importances)
                step = next(knapsack.search(now, importances, steps), None)
            else:
                step = next(search(now, steps), None)
            if step is None:
                return
            yield step

    def _stop(self, why: Stopped, note: str) -> None:
        self._cut_short = why
        self._note(note)

    def _smallest(self, problem: Problem) -> dict[str, float]:
        """What the narrowest model costs; if the table thinks it too slow, the device is asked."""
        widths = self._subject.floor
        floor = {n: amount * problem.start.correction.get(n, 1.0) for n, amount in self._predict(widths).items()}
        for name, gauge in self._gauges.items():
            if floor[name] > problem.limits.get(name, float("inf")):
                floor[name] = gauge.smallest(self._subject.smallest())
        return floor

    def _jump(self, problem: Problem, floor: dict[str, float]) -> Step:
        widths = self._subject.floor
        total = sum(widths.values())
        proposal = Proposal(TOGETHER, total, widths, floor)
        driver = next(iter(problem.limits))
        before = sum(self._subject.widths.values())
        accepted = problem.accept(1, proposal)
        return Step(1, TOGETHER, (before, total), widths, driver, problem.limits[driver], floor, accepted, (), ())

    def _accept(self, iteration: int, proposal: Proposal) -> Accepted:
        proto = self._candidates.accept(iteration, proposal)
        predicted = self._predict(proposal.widths)
        correction = {
            name: gauge.correction(iteration, proto, predicted[name], proposal.resources[name])
            for name, gauge in self._gauges.items()
        }
        found = {name: one for name, g in self._gauges.items() if (one := g.measured(iteration)) is not None}
        measured = {name: one.value for name, one in found.items()}
        intervals = {name: (one.low, one.high) for name, one in found.items()}
        # Solved anew, or trained for a moment: better than the proposal was when it was ranked.
        anew = self._subject.data is not None and self._arguments.rank == "reconstruct"
        changed = anew and not self._arguments.finalists
        ranked = self._judge.ranked(proto) if changed or proposal.group == TOGETHER else None
        return Accepted(self._judge.held_out(proto), ranked, correction, measured, intervals)

    def _note(self, text: str) -> None:
        if text not in self._notes:
            self._notes.append(text)
            self._log(text)


def _said(subject: PreparedModel, arguments: Arguments) -> dict[str, str]:
    """What the models of a run say of where they come from."""
    command = arguments.command(subject.model.path, subject.data)
    return provenance(subject.model.sha256, command=command, budget=", ".join(arguments.budget))
