"""One adaptation from start to end, in a run directory from which every moment of it can be continued."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import msgspec
import onnx

from netadapt_onnx.folding import Folded, fold
from netadapt_onnx.model import load, save
from netadapt_onnx.profilers.cost import cost
from netadapt_onnx.search.arguments import Arguments
from netadapt_onnx.search.attempts import MODEL_FILE
from netadapt_onnx.search.budget import LATENCY, SEARCHED, parse_budgets
from netadapt_onnx.search.candidates import Candidates, Progress, cores
from netadapt_onnx.search.executors.protocol import Executor
from netadapt_onnx.search.judge import CallersJudge, DataJudge, Judge
from netadapt_onnx.search.latency import AIM, LatencyGauge, Stage
from netadapt_onnx.search.netadapt import Accepted, Problem, Step, amounts_after, met, search
from netadapt_onnx.search.proposal import Proposal
from netadapt_onnx.search.provenance import provenance, stored_bytes
from netadapt_onnx.search.result import AccuracyChange, AdaptResult, Compared, Latency, Limit, Resources, Stopped
from netadapt_onnx.search.run import Lines, Run, write_json
from netadapt_onnx.search.schedule import Schedule
from netadapt_onnx.search.subject import Predictor, Subject
from netadapt_onnx.surgery import resize, select
from netadapt_onnx.surgery.bodies import flatten

RESULT_FILE, HISTORY_FILE, TRAINED_FILE = "result.json", "history.jsonl", "trained.onnx"
# A measured miss costs one more step and another final training; after so many rounds something else is wrong.
MOST_ROUNDS = 3
EVERY_GROUP = "every group"


class Adaptation:
    """A run at work, its jobs done by `executor`.

    `log` gets a line per event, `progress` follows what takes long; `gauges` measure latencies.
    """

    def __init__(
        self,
        run: Run,
        subject: Subject,
        arguments: Arguments,
        gauges: Mapping[str, LatencyGauge],
        executor: Executor,
        progress: Progress,
        log: Callable[[str], None],
    ) -> None:
        self._run = run
        self._subject = subject
        self._arguments = arguments
        self._gauges = dict(gauges)
        self._progress = progress
        self._log = log
        self._notes: list[str] = []
        self._cut_short: Stopped | None = None
        self._budgets = parse_budgets(arguments.budget, SEARCHED)
        self._judge = _judge(subject, arguments)
        self._metadata = provenance(
            subject.model,
            command=arguments.command(subject.model.path, subject.data),
            budget=", ".join(map(str, self._budgets)),
        )
        extra = stored_bytes(self._metadata)
        self._predict = Predictor(subject.trace, extra, {name: gauge.predicted for name, gauge in gauges.items()})
        self._candidates = Candidates(run, subject.trace, arguments, self._judge, subject.data, executor, progress)

    def result(self) -> AdaptResult:
        """Search, train, verify, write; of a finished run what it came to."""
        finished = self._finished()
        if finished is not None:
            return finished
        problem = self._problem()
        if met(amounts_after(problem, ()), self._limits(aim=False)):
            self._note("the model is within its budget already: nothing to do")
            return self._close(self._subject.trace.folded.proto, problem, [], "nothing-to-do")
        history = self._run.lines(HISTORY_FILE, Step)
        for last in (False,) * (MOST_ROUNDS - 1) + (True,):
            steps = self._search(problem, history)
            within = met(amounts_after(problem, steps), problem.limits)
            if within and not last and self._missed("searched", len(steps), self._candidates.current.folded.proto):
                continue
            proto = self._trained(steps)
            if not within or last or not self._missed("final", len(steps), proto):
                break
        stopped: Stopped = "met" if within else self._cut_short or "no-way-down"
        if stopped == "no-way-down" and len(steps) >= problem.max_iterations:
            stopped = "max-iterations"
        return self._close(proto, problem, steps, stopped)

    def _finished(self) -> AdaptResult | None:
        file, model = self._run.path / RESULT_FILE, self._run.path / MODEL_FILE
        if not file.exists() or not model.exists():
            return None
        found = msgspec.json.decode(file.read_bytes(), type=AdaptResult, dec_hook=lambda kind, value: kind(value))
        more = self._arguments.max_iterations > found.iterations
        if found.stopped == "max-time" or (found.stopped == "max-iterations" and more):
            return None
        return replace(found, model=model)

    def _limits(self, *, aim: bool) -> dict[str, float]:
        """The budgets in base units; with `aim`, where the search aims: safely within what a measurement must hold."""
        original = self._predict(self._subject.widths) | {"size": float(self._subject.model.size_bytes)}
        limits = {budget.resource: budget.limit(original[budget.resource]) for budget in self._budgets}
        return {name: limit * AIM if aim and name in self._gauges else limit for name, limit in limits.items()}

    def _problem(self) -> Problem:
        original = self._subject.trace.folded.proto
        known = self._run.once(
            "accuracy/original",
            lambda: {"held_out": self._judge.held_out(original), "ranked": self._judge.ranked(original)},
        )
        correction = {name: gauge.start_correction() for name, gauge in self._gauges.items()}
        limits = self._limits(aim=True)
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
        )

    def _schedule(self, limits: dict[str, float]) -> Schedule:
        """The schedule asked for, its decay raised if it could not reach the budget otherwise."""
        iterations = self._arguments.max_iterations
        original, floor = self._predict(self._subject.widths), self._predict(self._subject.floor)
        first = self._budgets[0].resource
        gauge = self._gauges.get(first)
        initial = original[first] * (gauge.start_correction() if gauge is not None else 1.0)
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

    def _search(self, problem: Problem, history: Lines[Step]) -> list[Step]:
        """Go on from the history until the loop ends; returns all steps."""
        floor = self._smallest(problem)
        too_low = [name for name, limit in problem.limits.items() if floor[name] > limit]
        if too_low:
            share = floor[too_low[0]] / amounts_after(problem, ())[too_low[0]]
            self._note(f"no width is small enough: {too_low[0]} is at least {share:.3g}x of the original's")
            if not history.items:  # every path ends with all groups at their floor, so go there at once
                history.append(self._jump(problem, floor))
        steps = [self._with_verdict(step) for step in history.items]
        self._candidates.resume(len(steps))
        for step in search(problem, steps):
            if step.accepted.accuracy < (self._arguments.min_accuracy or 0.0):
                self._stop("accuracy-floor", f"the next step would leave {step.accepted.accuracy:.4f}, below the floor")
                self._candidates.resume(len(steps))
                break
            history.append(step)
            steps.append(step)
            self._log(self._told(step, problem))
            if (step.iteration - 1) % self._arguments.save_interval:
                self._candidates.forget(step.iteration - 1)
            if self._run.seconds() > (self._arguments.max_time_s or float("inf")):
                self._stop("max-time", "the time is over: --resume with a larger --max-time goes on")
                break
        return steps

    def _stop(self, why: Stopped, note: str) -> None:
        self._cut_short = why
        self._note(note)

    def _smallest(self, problem: Problem) -> dict[str, float]:
        """What the narrowest model costs; if the table thinks it too slow, the device is asked."""
        trace, widths = self._subject.trace, self._subject.floor
        floor = {n: amount * problem.start.correction.get(n, 1.0) for n, amount in self._predict(widths).items()}
        for name, gauge in self._gauges.items():
            if floor[name] > problem.limits.get(name, float("inf")):
                floor[name] = gauge.smallest(resize(trace, select(trace, widths, "first")))
        return floor

    def _jump(self, problem: Problem, floor: dict[str, float]) -> Step:
        widths = self._subject.floor
        total = sum(widths.values())
        proposal = Proposal(EVERY_GROUP, total, widths, floor)
        driver = next(iter(problem.limits))
        before = sum(self._subject.widths.values())
        accepted = problem.accept(1, proposal)
        return Step(1, EVERY_GROUP, (before, total), widths, driver, problem.limits[driver], floor, accepted, (), ())

    def _told(self, step: Step, problem: Problem) -> str:
        original = self._predict(self._subject.widths)
        left = ", ".join(f"{name} {step.resources[name] / original[name]:.3f}x" for name in problem.limits)
        change = f"{step.group} {step.channels[0]} -> {step.channels[1]}"
        return f"iteration {step.iteration}: {change}, {left}, {self._judge.metric} {step.accepted.accuracy:.4f}"

    def _accept(self, iteration: int, proposal: Proposal) -> Accepted:
        proto = self._candidates.accept(iteration, proposal)
        predicted = self._predict(proposal.widths)
        correction = {name: gauge.correction(iteration, proto, predicted[name]) for name, gauge in self._gauges.items()}
        changed = self._arguments.rank == "reconstruct" and self._arguments.short_term_steps > 0
        ranked = self._judge.ranked(proto) if changed or proposal.group == EVERY_GROUP else None
        return Accepted(self._judge.held_out(proto), ranked, correction)

    def _missed(self, stage: Stage, iteration: int, proto: onnx.ModelProto) -> bool:
        """Whether a careful measurement finds a latency budget missed."""
        asked = [self._gauges[budget.resource] for budget in self._budgets if budget.resource in self._gauges]
        return any(gauge.missed(stage, iteration, proto) for gauge in asked)

    def _with_verdict(self, step: Step) -> Step:
        """A step whose model was measured too slow, corrected by that: the search goes on from there."""
        predicted = self._predict(step.widths)
        found = {name: gauge.verdict(step.iteration, predicted[name]) for name, gauge in self._gauges.items()}
        factors = {name: factor for name, factor in found.items() if factor is not None}
        if not factors:
            return step
        return replace(step, accepted=replace(step.accepted, correction={**step.accepted.correction, **factors}))

    def _trained(self, steps: list[Step]) -> onnx.ModelProto:
        """The current model after long training by the original; as it was if that did not help or was not wanted."""
        searched = self._candidates.current.folded.proto
        epochs, data = self._arguments.final_epochs, self._subject.data
        if not epochs or data is None or not steps or self._cut_short == "max-time":
            return searched
        file = self._run.iteration(len(steps)) / TRAINED_FILE
        if not file.exists():
            from netadapt_onnx.training.trainer import train

            trained = train(
                searched,
                data,
                teacher=self._subject.trace.folded.proto,
                epochs=epochs,
                seed=self._arguments.seed,
                settings=self._candidates.training_settings(f"final/{len(steps)}", searched),
                progress=lambda step, steps, loss: self._progress(step, steps, f"final training, loss {loss:.3f}"),
            )
            save(trained.proto, file)
        proto = self._folded(load(file).proto).proto
        if not self._judge.held_out(proto) >= steps[-1].accepted.accuracy:  # NaN is no improvement either
            self._note("the final training did not help: the model is as the search left it")
            return searched
        return proto

    def _close(self, proto: onnx.ModelProto, problem: Problem, steps: list[Step], stopped: Stopped) -> AdaptResult:
        """Write the model, compare it with the original, and remember the result."""
        file = save(proto, self._run.path / MODEL_FILE, metadata=self._metadata, overwrite=True)
        latencies: dict[str, Latency] = {}
        if steps:
            predicted = self._predict(steps[-1].widths)
            found = {n: gauge.result(len(steps), proto, predicted[n]) for n, gauge in self._gauges.items()}
            latencies = {name: latency for name, latency in found.items() if latency is not None}
        latency = next((found for name, found in latencies.items() if name.startswith(LATENCY)), None)
        before = _resources(self._subject.trace.folded, self._subject.model.size_bytes)
        after = _resources(self._folded(load(file).proto), file.stat().st_size)
        if latency is not None:
            before = replace(before, latency_ms=latency.before_ms)
            after = replace(after, latency_ms=latency.after_ms)
        limits = self._judged(before, after, latencies, steps)
        widths = steps[-1].widths if steps else self._subject.widths
        original = self._run.once("accuracy/reported", lambda: self._judge.reported(self._subject.trace.folded.proto))
        reported = self._judge.reported(proto) if steps else original
        result = AdaptResult(
            met=_all_met(limits),
            before=before,
            after=after,
            accuracy=AccuracyChange(original, reported, self._judge.metric, self._judge.split),
            iterations=len(steps),
            seconds=self._run.seconds(),
            model=file,
            stopped=stopped,
            limits=limits,
            groups={name: (channels, widths[name]) for name, channels in self._subject.widths.items()},
            latency=latency,
            latencies={n: found for n, found in latencies.items() if n.startswith(LATENCY)},
            measured={n: _compared(found) for n, found in latencies.items() if not n.startswith(LATENCY)},
            notes=tuple(self._notes),
        )
        write_json(self._run.path / RESULT_FILE, replace(result, model=Path(MODEL_FILE)))
        return result

    def _judged(
        self, before: Resources, after: Resources, latencies: Mapping[str, Latency], steps: Sequence[Step]
    ) -> tuple[Limit, ...]:
        made = []
        for budget in self._budgets:
            gauge, latency = self._gauges.get(budget.resource), latencies.get(budget.resource)
            told: bool | None = None
            if gauge is None:
                name = budget.resource if budget.resource in ("macs", "params") else f"{budget.resource}_bytes"
                limit, value = budget.limit(getattr(before, name)), float(getattr(after, name))
                told = value <= limit
            elif latency is not None:
                limit = budget.limit(latency.before_ms)
                value = latency.ci95[1] * latency.before_ms if budget.relative else latency.after_ci95_ms[1]
                told = value <= limit
            else:
                limit = self._limits(aim=False)[budget.resource]
                value = self._predict(steps[-1].widths)[budget.resource] if steps else gauge.reference_ms
                told = None if steps and value <= limit else value <= limit  # a prediction proves nothing
            made.append(Limit(str(budget), limit, value, told))
            if told is None:
                self._note(f"{budget}: predicted {value:.3g}, which nobody has measured")
        return tuple(made)

    def _folded(self, proto: onnx.ModelProto) -> Folded:
        return fold(proto, dict(self._arguments.shapes), self._arguments.batch_size)

    def _note(self, text: str) -> None:
        if text not in self._notes:
            self._notes.append(text)
            self._log(text)


def _compared(found: Latency) -> Compared:
    return Compared(
        found.before_ms,
        found.after_ms,
        found.after_ci95_ms,
        found.ratio,
        found.ci95,
        found.predicted_ms,
        found.sessions,
    )


def _all_met(limits: Sequence[Limit]) -> bool | None:
    """True if every limit is met, False if one is not, None where nobody could measure."""
    told = [limit.met for limit in limits]
    return False if False in told else None if None in told else True


def _judge(subject: Subject, arguments: Arguments) -> Judge:
    if arguments.evaluate is not None:
        return CallersJudge(arguments.evaluate)
    assert subject.data is not None
    return DataJudge(subject.data, subject.trace.folded.proto, arguments.seed, cores())


def _resources(folded: Folded, size_bytes: int) -> Resources:
    flat, _ = flatten(folded)
    counted = cost(flat.proto, flat.shapes)
    return Resources(counted.params, counted.macs, size_bytes, counted.memory_bytes)
