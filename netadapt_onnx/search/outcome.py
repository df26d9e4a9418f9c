"""What a target came to: its model written, measured beside the file as given, and judged by every budget."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import onnx

from netadapt_onnx.common.budget import Budget, Target
from netadapt_onnx.common.progress import stage
from netadapt_onnx.common.resources import FIELDS, LATENCY, Resources
from netadapt_onnx.graph.cost import cost
from netadapt_onnx.graph.fold import fold
from netadapt_onnx.graph.folded_model import FoldedModel
from netadapt_onnx.graph.model import load, save
from netadapt_onnx.graph.weightless import file_bytes
from netadapt_onnx.profilers.execution import Execution
from netadapt_onnx.search.evaluator import Evaluator
from netadapt_onnx.search.latency_check import MeasuredLatency
from netadapt_onnx.search.latency_journal import UNDECIDED
from netadapt_onnx.search.netadapt import Step
from netadapt_onnx.search.normalising import gained
from netadapt_onnx.search.on_devices import on_devices
from netadapt_onnx.search.options import Arguments
from netadapt_onnx.search.prepared_model import Predictor, PreparedModel
from netadapt_onnx.search.result import (
    AccuracyChange,
    AdaptResult,
    Compared,
    Deployed,
    Finished,
    Latency,
    Limit,
    Share,
    Stopped,
)
from netadapt_onnx.search.run_directory.run import Run
from netadapt_onnx.surgery.flatten_subgraphs import flatten


@dataclass(frozen=True)
class Outcome:
    """Who writes and judges what a run comes to."""

    run: Run
    subject: PreparedModel
    arguments: Arguments
    gauges: Mapping[str, MeasuredLatency]
    judge: Evaluator
    predict: Predictor
    metadata: Mapping[str, str]
    execution: Execution

    def finished(
        self, proto: onnx.ModelProto, target: Target, steps: Sequence[Step], stopped: Stopped, file: Path
    ) -> Finished:
        """Write the model and compare it with the original."""
        said = dict(self.metadata) | {"netadapt_onnx.budget": ", ".join(map(str, target))}
        save(proto, file, metadata=said, overwrite=True, planned=self.subject.trace.folded.interface())
        self.run.journal.seal(file)
        latencies = self._latencies(proto, steps, measure=stopped != UNDECIDED)
        latency = _first(latencies)
        before = _resources(self.subject.trace.folded, self.subject.model.size_bytes)
        after = _resources(self.folded(load(file).proto), file.stat().st_size)
        if latency is not None:
            before = replace(before, latency_ms=latency.before_ms)
            after = replace(after, latency_ms=latency.after_ms)
        limits = tuple(self._judged(budget, before, after, latencies, steps) for budget in target)
        open_questions = tuple(_open_question(limit, latencies) for limit in limits if limit.met is None)
        measured = [limit.met for limit in limits if limit.budget.partition("=")[0] in latencies]
        if _all_met(limits) is None and None in measured:
            stopped = UNDECIDED
        elif stopped == "met" and False in measured:
            stopped = "missed"
        deployed, more = self._deployed(proto, file, said)
        widths = steps[-1].widths if steps else self.subject.widths
        branches = [branch.name for branch in self.subject.branches]
        original = self.run.once("accuracy/reported", lambda: self.judge.reported(self.subject.trace.folded.proto))
        return Finished(
            budget=", ".join(map(str, target)),
            met=_all_met(limits),
            after=after,
            accuracy=AccuracyChange(
                original,
                self.judge.reported(proto) if steps else original,
                self.judge.reported_metric,
                self.judge.split,
            ),
            validation=self.judge.held_out(proto) if steps else self.run.recall("accuracy/original")["held_out"],
            iterations=len(steps),
            model=file,
            stopped=stopped,
            limits=limits,
            groups={name: (n, widths[name]) for name, n in self.subject.widths.items() if name not in branches},
            removed=tuple(name for name in branches if not widths[name]),
            before=before,
            latencies={n: found for n, found in latencies.items() if n.startswith(LATENCY)},
            measured={n: _compared(found) for n, found in latencies.items() if not n.startswith(LATENCY)},
            notes=(*self._of_normalising(), *open_questions, *_disturbed(limits, latencies), *more),
            deployed=deployed,
            normalised=self._normalised(before),
            normalising=self._shares,
        )

    def _latencies(self, proto: onnx.ModelProto, steps: Sequence[Step], *, measure: bool) -> dict[str, Latency]:
        """What was measured of the result; without steps that is the original, as normalising left it.

        With `measure` it is measured once more.
        """
        if not steps:
            found = {name: gauge.normalised() for name, gauge in self.gauges.items()}
        else:
            predicted = self.predict(steps[-1].widths)
            found = {
                n: gauge.result(len(steps), proto, predicted[n], measure=measure) for n, gauge in self.gauges.items()
            }
        return {name: latency for name, latency in found.items() if latency is not None}

    @cached_property
    def _shares(self) -> dict[str, Share]:
        """What normalising alone leaves of each measured resource, where that can be told."""
        ratios = {name: gauge.normalising.ratio for name, gauge in self.gauges.items()}
        return {name: Share(ratio.median, ratio.ci95) for name, ratio in ratios.items() if ratio is not None}

    def _normalised(self, before: Resources) -> Resources | None:
        """The uncut model normalised; its latency is its share of the file's, as all times in one result are."""
        if not self._shares:
            return None
        name = next((name for name in self.gauges if name.startswith(LATENCY)), "")
        latency_ms = before.latency_ms
        if name in self._shares and latency_ms is not None:
            latency_ms *= self._shares[name].ratio
        return replace(before, size_bytes=round(self.predict(self.subject.widths)["size"]), latency_ms=latency_ms)

    def _of_normalising(self) -> tuple[str, ...]:
        """What to say of the file as given."""
        notes = [f"{name}: {gauge.normalising.note}" for name, gauge in self.gauges.items() if gauge.normalising.note]
        file = self.subject.model.path.name
        return (*notes, *(gained(name, file, share.ratio, share.ci95) for name, share in self._shares.items()))

    def result(self, models: Sequence[Finished], notes: Sequence[str]) -> AdaptResult:
        """The run's: that of its tightest target that was gone for."""
        last = models[-1]
        return AdaptResult(
            met=last.met,
            before=last.before,
            after=last.after,
            accuracy=last.accuracy,
            iterations=last.iterations,
            seconds=self.run.seconds(),
            model=last.model,
            stopped=last.stopped,
            limits=last.limits,
            groups=last.groups,
            removed=last.removed,
            normalised=last.normalised,
            normalising=last.normalising,
            latency=_first(last.latencies),
            latencies=last.latencies,
            measured=last.measured,
            notes=tuple(dict.fromkeys((*notes, *last.notes))),
            models=tuple(models),
            deployed=last.deployed,
        )

    @stage("quantising")
    def _deployed(
        self, proto: onnx.ModelProto, file: Path, said: Mapping[str, str]
    ) -> tuple[Deployed | None, tuple[str, ...]]:
        """What is deployed of the model, written beside it, and compared with what is deployed of the original.

        And what to know of its accuracy.
        """
        deploy = self.execution.deploy
        precision = deploy.precision
        if precision == "float":
            return None, ()
        original, result = deploy.apply(self.subject.trace.folded.proto), deploy.apply(proto)
        target, planned = file.with_suffix(f".{precision}.onnx"), self.subject.trace.folded.interface()
        written = save(result, target, metadata=said, overwrite=True, planned=planned)
        self.run.journal.seal(written)
        before = self.run.once(f"accuracy/reported/{precision}", lambda: self.judge.reported(original))
        change = AccuracyChange(before, self.judge.reported(result), self.judge.reported_metric, self.judge.split)
        sizes = (file_bytes(original), written.stat().st_size)
        devices, notes = on_devices(self.run, file.stem, self.gauges, self.judge, self.execution, result)
        return Deployed(precision, written.name, sizes, change, devices), notes

    def folded(self, proto: onnx.ModelProto) -> FoldedModel:
        """A model at the shapes that were asked for."""
        return fold(proto, dict(self.arguments.shapes), self.arguments.batch_size)

    @cached_property
    def original(self) -> dict[str, float]:
        """What the file as given costs, in base units, as predictions have it."""
        normalised = self.predict(self.subject.widths) | {"size": float(self.subject.model.size_bytes)}
        return normalised | {name: gauge.as_given(normalised[name]) for name, gauge in self.gauges.items()}

    def limits(self, target: Target) -> dict[str, float]:
        """A target's budgets in base units: shares are of the file as given."""
        return {budget.resource: budget.limit(self.original[budget.resource]) for budget in target}

    def already(self, target: Target) -> str:
        """Why there is nothing to do for a target that the uncut model meets."""
        for budget in target:
            found = self.gauges[budget.resource].normalised() if budget.resource in self._shares else None
            if found is not None and budget.limit(found.before_ms) < found.before_ms:
                return f"normalising alone meets it ({found.ratio:.3f}x): nothing is cut"
        return "the model is within its budget already: nothing to do"

    def _judged(
        self,
        budget: Budget,
        before: Resources,
        after: Resources,
        latencies: Mapping[str, Latency],
        steps: Sequence[Step],
    ) -> Limit:
        gauge, latency = self.gauges.get(budget.resource), latencies.get(budget.resource)
        if gauge is None:
            name = FIELDS[budget.resource]
            limit, value = budget.limit(getattr(before, name)), float(getattr(after, name))
            return Limit(str(budget), limit, value, value <= limit)
        if latency is not None:
            limit = budget.limit(latency.before_ms)
            value = latency.ci95[1] * latency.before_ms if budget.relative else latency.after_ci95_ms[1]
            return Limit(str(budget), limit, value, latency.met(budget.value, relative=budget.relative))
        limit = self.limits((budget,))[budget.resource]
        value = self.predict(steps[-1].widths)[budget.resource] if steps else gauge.reference_ms
        # A prediction proves nothing.
        return Limit(str(budget), limit, value, None if steps and value <= limit else value <= limit)


def _first(latencies: Mapping[str, Latency]) -> Latency | None:
    return next((found for name, found in latencies.items() if name.startswith(LATENCY)), None)


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


def _open_question(limit: Limit, latencies: Mapping[str, Latency]) -> str:
    """Why nobody can tell whether a limit is met."""
    latency = latencies.get(limit.budget.partition("=")[0])
    if latency is None:
        return f"{limit.budget}: predicted {limit.value:.3g}, which nobody has measured"
    low, high = latency.ci95
    return (
        f"{limit.budget}: could not judge: times vary by {latency.disturbance:.0%}, and the result takes {low:.3f}x to "
        f"{high:.3f}x of the original's"
    )


def _disturbed(limits: Sequence[Limit], latencies: Mapping[str, Latency]) -> list[str]:
    """What to know of verdicts that were possible all the same."""
    decided = {limit.budget.partition("=")[0] for limit in limits if limit.met is not None}
    return [
        f"{name}: the device was busy, times varied by {latency.disturbance:.0%}: those shown are of the fastest runs"
        for name, latency in latencies.items()
        if latency.disturbance and name in decided
    ]


def _all_met(limits: Sequence[Limit]) -> bool | None:
    """True if every limit is met, False if one is not, None where nobody could measure."""
    told = [limit.met for limit in limits]
    return False if False in told else None if None in told else True


def _resources(folded: FoldedModel, size_bytes: int) -> Resources:
    flat, _ = flatten(folded)
    counted = cost(flat.proto, flat.shapes)
    return counted.to_resources(size_bytes)
