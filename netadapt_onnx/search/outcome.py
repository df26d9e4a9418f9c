"""What a target comes to: its model written, measured beside the user's file, and compared with every budget."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import onnx

from netadapt_onnx.common.budget import Budget, Target
from netadapt_onnx.common.progress import stage
from netadapt_onnx.common.resources import FIELDS, LATENCY, Resources
from netadapt_onnx.data.metrics import AccuracyChange
from netadapt_onnx.graph.cost import cost
from netadapt_onnx.graph.folded_model import FoldedModel
from netadapt_onnx.graph.model import load, save
from netadapt_onnx.graph.weightless import file_bytes
from netadapt_onnx.search.budget_check.normalisation import normalisation_note
from netadapt_onnx.search.context import SearchContext
from netadapt_onnx.search.device_accuracy import device_accuracies
from netadapt_onnx.search.netadapt import Step
from netadapt_onnx.search.result import (
    UNDECIDED,
    Compared,
    Deployed,
    Latency,
    Limit,
    Stopped,
    TargetResult,
)
from netadapt_onnx.search.target_problem import Limits
from netadapt_onnx.surgery.flatten_subgraphs import flatten


@dataclass(frozen=True)
class Outcome:
    """Writes the models of a run's targets, and compares them with the budgets."""

    context: SearchContext
    limits: Limits

    def finished(
        self, proto: onnx.ModelProto, target: Target, steps: Sequence[Step], stopped: Stopped, file: Path
    ) -> TargetResult:
        """Write the model of a target and compare it with the original.

        Args:
            proto: The model.
            target: The budgets.
            steps: The steps to the model; none for the original.
            stopped: Why the search has ended.
            file: The file to write.
        """
        context, prepared, evaluator = self.context, self.context.prepared, self.context.evaluator
        metadata = dict(context.metadata) | {"netadapt_onnx.budget": ", ".join(map(str, target))}
        save(proto, file, metadata=metadata, overwrite=True, planned=prepared.trace.folded.interface())
        context.run.journal.seal(file)
        latencies = self._latencies(proto, steps, measure=stopped != UNDECIDED)
        before, after = self._resources(file, latencies)
        limits = tuple(self._limit(budget, before, after, latencies, steps) for budget in target)
        deployed, device_notes = self._deployed(proto, file, metadata)
        widths = steps[-1].widths if steps else prepared.widths
        branches = [branch.name for branch in prepared.branches]
        original = context.run.once("accuracy/reported", lambda: evaluator.test_accuracy(prepared.trace.folded.proto))
        return TargetResult(
            budget=", ".join(map(str, target)),
            met=_all_met(limits),
            after=after,
            accuracy=AccuracyChange(
                original,
                evaluator.test_accuracy(proto) if steps else original,
                evaluator.test_metric,
                evaluator.split,
            ),
            validation=(
                evaluator.val_accuracy(proto) if steps else context.run.recall("accuracy/original")["held_out"]
            ),
            iterations=len(steps),
            model=file,
            stopped=_stopped(stopped, limits, latencies),
            limits=limits,
            groups={name: (n, widths[name]) for name, n in prepared.widths.items() if name not in branches},
            removed=tuple(name for name in branches if not widths[name]),
            before=before,
            latencies={n: latency for n, latency in latencies.items() if n.startswith(LATENCY)},
            measured={n: _compared(latency) for n, latency in latencies.items() if not n.startswith(LATENCY)},
            notes=(*self._notes(limits, latencies), *device_notes),
            deployed=deployed,
            normalised=self._normalised(before),
            normalising=self.limits.normalisation_shares,
        )

    def _latencies(self, proto: onnx.ModelProto, steps: Sequence[Step], *, measure: bool) -> dict[str, Latency]:
        """The measurements of the model; without steps that is the original, as normalising left it.

        With `measure` the model is measured once more.
        """
        checks = self.context.budget_checks
        if steps:
            predicted = self.context.predict(steps[-1].widths)
            latencies = {
                name: check.result(len(steps), proto, predicted[name], measure=measure)
                for name, check in checks.items()
            }
        else:
            latencies = {name: check.prediction.normalised() for name, check in checks.items()}
        return {name: latency for name, latency in latencies.items() if latency is not None}

    def _resources(self, file: Path, latencies: Mapping[str, Latency]) -> tuple[Resources, Resources]:
        """The resources of the user's file, and those of the model that was written."""
        prepared, latency = self.context.prepared, _first(latencies)
        before = _counted(prepared.trace.folded, prepared.model.size_bytes)
        after = _counted(self.context.fold(load(file).proto), file.stat().st_size)
        if latency is None:
            return before, after
        return replace(before, latency_ms=latency.before_ms), replace(after, latency_ms=latency.after_ms)

    def _normalised(self, before: Resources) -> Resources | None:
        """The uncut model normalised; its latency is its share of the file's, as all times in one result are."""
        shares = self.limits.normalisation_shares
        if not shares:
            return None
        name = next((name for name in self.context.budget_checks if name.startswith(LATENCY)), "")
        latency_ms = before.latency_ms
        if name in shares and latency_ms is not None:
            latency_ms *= shares[name].ratio
        size_bytes = round(self.context.predict(self.context.prepared.widths)["size"])
        return replace(before, size_bytes=size_bytes, latency_ms=latency_ms)

    def _notes(self, limits: Sequence[Limit], latencies: Mapping[str, Latency]) -> list[str]:
        """What users should know: of the user's file, of limits that could not be judged, and of a busy device."""
        normalisations = {n: check.prediction.normalisation for n, check in self.context.budget_checks.items()}
        notes = [
            f"{name}: {normalisation.note}" for name, normalisation in normalisations.items() if normalisation.note
        ]
        file, shares = self.context.prepared.model.path.name, self.limits.normalisation_shares
        notes += [normalisation_note(name, file, share.ratio, share.ci95) for name, share in shares.items()]
        notes += [_open_question(limit, latencies) for limit in limits if limit.met is None]
        return notes + _busy_notes(limits, latencies)

    @stage("quantising")
    def _deployed(
        self, proto: onnx.ModelProto, file: Path, metadata: Mapping[str, str]
    ) -> tuple[Deployed | None, tuple[str, ...]]:
        """What is deployed of the model, written to a file of its own, and notes on its accuracy.

        It is compared with what is deployed of the original.
        """
        context, deploy, evaluator = self.context, self.context.execution.deploy, self.context.evaluator
        precision, folded = deploy.precision, self.context.prepared.trace.folded
        if precision == "float":
            return None, ()
        original, result = deploy.apply(folded.proto), deploy.apply(proto)
        path = file.with_suffix(f".{precision}.onnx")
        written = save(result, path, metadata=metadata, overwrite=True, planned=folded.interface())
        context.run.journal.seal(written)
        before = context.run.once(f"accuracy/reported/{precision}", lambda: evaluator.test_accuracy(original))
        change = AccuracyChange(before, evaluator.test_accuracy(result), evaluator.test_metric, evaluator.split)
        sizes = (file_bytes(original), written.stat().st_size)
        devices, notes = device_accuracies(context, file.stem, result)
        return Deployed(precision, written.name, sizes, change, devices), notes

    def _limit(
        self,
        budget: Budget,
        before: Resources,
        after: Resources,
        latencies: Mapping[str, Latency],
        steps: Sequence[Step],
    ) -> Limit:
        """A budget, and whether the model is within it."""
        check, latency = self.context.budget_checks.get(budget.resource), latencies.get(budget.resource)
        if check is None:
            name = FIELDS[budget.resource]
            limit, value = budget.limit(getattr(before, name)), float(getattr(after, name))
            return Limit(str(budget), limit, value, value <= limit)
        if latency is not None:
            limit = budget.limit(latency.before_ms)
            value = latency.ci95[1] * latency.before_ms if budget.relative else latency.after_ci95_ms[1]
            return Limit(str(budget), limit, value, latency.met(budget.value, relative=budget.relative))
        limit = self.limits.of((budget,))[budget.resource]
        value = check.prediction.measured_original
        if steps:
            value = self.context.predict(steps[-1].widths)[budget.resource]
        # A prediction proves nothing.
        return Limit(str(budget), limit, value, None if steps and value <= limit else value <= limit)


def _stopped(stopped: Stopped, limits: Sequence[Limit], latencies: Mapping[str, Latency]) -> Stopped:
    """Why the search has ended, once its result was measured."""
    measured = [limit.met for limit in limits if limit.resource in latencies]
    if _all_met(limits) is None and None in measured:
        return UNDECIDED
    return "missed" if stopped == "met" and False in measured else stopped


def _first(latencies: Mapping[str, Latency]) -> Latency | None:
    return next((latency for name, latency in latencies.items() if name.startswith(LATENCY)), None)


def _compared(latency: Latency) -> Compared:
    """A measurement of another resource than latency."""
    return Compared(
        latency.before_ms,
        latency.after_ms,
        latency.after_ci95_ms,
        latency.ratio,
        latency.ci95,
        latency.predicted_ms,
        latency.sessions,
    )


def _open_question(limit: Limit, latencies: Mapping[str, Latency]) -> str:
    """The note on a limit that could not be judged."""
    latency = latencies.get(limit.resource)
    if latency is None:
        return f"{limit.budget}: the table predicted {_amount(limit)}; no device has measured it"
    low, high = latency.ci95
    return (
        f"{limit.budget}: could not judge: times vary by {latency.disturbance:.0%} on the busy device, and the result "
        f"takes {low:.3f}x to {high:.3f}x of the original's time"
    )


def _amount(limit: Limit) -> str:
    """What a limit was compared with: a latency in ms, anything else as a number."""
    return f"{limit.value:.3g}{' ms' if limit.budget.startswith(LATENCY) else ''}"


def _busy_notes(limits: Sequence[Limit], latencies: Mapping[str, Latency]) -> list[str]:
    """The notes on verdicts that were possible although the device was busy."""
    decided = {limit.resource for limit in limits if limit.met is not None}
    return [
        f"{name}: the device was busy, times varied by {latency.disturbance:.0%}; those shown are of the fastest runs"
        for name, latency in latencies.items()
        if latency.disturbance and name in decided
    ]


def _all_met(limits: Sequence[Limit]) -> bool | None:
    """True if every limit is met, False if one is not, None where that could not be measured."""
    verdicts = [limit.met for limit in limits]
    return False if False in verdicts else None if None in verdicts else True


def _counted(folded: FoldedModel, size_bytes: int) -> Resources:
    flat, _ = flatten(folded)
    return cost(flat.proto, flat.shapes).to_resources(size_bytes)
