"""A run of `adapt`, read back from its directory, whether it has ended or not."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from netadapt_onnx.common.budget import parse_targets
from netadapt_onnx.common.headline import Change
from netadapt_onnx.common.resources import COUNTED, SEARCHED
from netadapt_onnx.data.metrics import AccuracyChange
from netadapt_onnx.profilers.statistics import Ratio
from netadapt_onnx.reporting.adapt_points import Point, finished_points, searched_points, time_scales
from netadapt_onnx.reporting.recorded_run import RecordedRun, State
from netadapt_onnx.reporting.result_summary import (
    counted_changes,
    measured_changes,
    predicted_changes,
    reported_accuracy,
)
from netadapt_onnx.search.netadapt import Step
from netadapt_onnx.search.result import AdaptResult
from netadapt_onnx.search.run_directory.journal import Journal, read_history, read_journal
from netadapt_onnx.search.run_directory.layer_changes import DETAILS_FILE, Details, read_details
from netadapt_onnx.training.validation import Evaluation, best_of

STAGES = ("brief", "searched", "final")
VALIDATION = "validation"


@dataclass(frozen=True)
class Measurement:
    """One measurement of a model relative to the original.

    `stage` says when it was taken: `brief` once the model was accepted, `searched` carefully because the model was near
    the budget, `final` after the final training. `iteration` is the one that accepted the model.
    """

    resource: str
    stage: str
    iteration: int
    ratio: Ratio


@dataclass(frozen=True)
class BudgetLine:
    """A budget as it was asked for, and what it allows in base units; None where that is not known yet."""

    text: str
    resource: str
    limit: float | None


@dataclass(frozen=True)
class AdaptRun:
    """A run of `adapt`.

    Attributes:
        name: What the report calls it.
        state: Whether it has ended.
        result: Its result; None for a run that has not ended.
        budgets: The budgets of its tightest target.
        original: What the original costs, in base units; a resource that is not known yet is missing.
        metric: What the accuracies of the search are measured in; those that are reported may have another.
        steps: The accepted iterations.
        points: All models that were evaluated.
        scales: By resource, the factor from the search's predictions to the final measurement's units.
        measurements: All measurements, in their order.
        evaluations: Validation accuracies during the final training, from its beginning; empty if there was none.
        details: Layers before and after, what cannot be pruned, epochs of the final training.
        identity, about: Those of `run.json`: what decides the result; time, versions, device, command.
    """

    name: str
    state: State
    result: AdaptResult | None
    budgets: tuple[BudgetLine, ...]
    original: Mapping[str, float]
    metric: str
    steps: tuple[Step, ...]
    points: tuple[Point, ...]
    scales: Mapping[str, float]
    measurements: tuple[Measurement, ...]
    evaluations: tuple[Evaluation, ...]
    details: Details
    identity: Mapping[str, Any]
    about: Mapping[str, Any]

    @property
    def budget_resources(self) -> list[str]:
        """The resources that have a budget, in the order of the budgets."""
        return list(dict.fromkeys(budget.resource for budget in self.budgets))

    @property
    def ranks_by_outputs(self) -> bool:
        """Whether proposals and the training were judged by the variance of the original's outputs that they explain.

        That is so without labels, because agreement tells only large differences apart; it is no agreement.
        """
        return self.metric == "agreement"

    @property
    def drawn_points(self) -> tuple[Point, ...]:
        """The models whose accuracies compare: without the proposals, if those were judged by another measure."""
        return tuple(point for point in self.points if not (self.ranks_by_outputs and point.kind == "proposal"))

    @property
    def changes(self) -> dict[str, Change]:
        """By resource, what the model costs before and after: of the result, or of the last iteration so far."""
        if self.result is not None:
            timed = (*measured_changes(self.result), *predicted_changes(self.result))
            return {change.resource: change for change in timed} | counted_changes(self.result)
        if not self.steps:
            return {}
        step = self.steps[-1]
        names = (*(name for name in step.resources if name not in COUNTED), *COUNTED)
        return {name: step_change(step, name, self.original.get(name)) for name in names if name in step.resources}

    @property
    def accuracy(self) -> AccuracyChange | None:
        """The accuracy before and after: of the result, or on validation samples of the last iteration so far."""
        if self.result is not None:
            return reported_accuracy(self.result)
        original = next((point.accuracy for point in self.points if point.kind == "original"), None)
        if original is None or not self.steps:
            return None
        return AccuracyChange(original, self.steps[-1].accepted.accuracy, self.metric, VALIDATION)

    @property
    def was_training_discarded(self) -> bool:
        """Whether no state of the final training was as accurate as the model before it."""
        return bool(self.evaluations) and best_of(self.evaluations).step == 0


def step_change(step: Step, name: str, original: float | None) -> Change:
    """What an iteration's model costs of a resource, measured if it was, against the original."""
    if name not in step.accepted.measured:
        return Change(name, original, step.resources[name], is_predicted=name not in COUNTED)
    value, (low, high) = step.accepted.measured[name], step.accepted.measured_ci95[name]
    interval = (low / original, high / original) if original else None
    return Change(name, original, value, value / original if original else None, interval)


def read_adapt_run(recorded: RecordedRun, run: Path) -> AdaptRun:
    """Read what a run of `adapt` did from its directory.

    Args:
        recorded: The run's identity, and its result if it has one.
        run: The run's directory.

    Raises:
        NetadaptError: The result or the history is not readable, or a file was changed since the run wrote it.
    """
    result = recorded.result(AdaptResult) if recorded.state == "finished" else None
    steps = tuple(read_history(run, Step))
    journal, details = read_journal(run), read_details(run)
    if result is not None:
        for file in (Path(DETAILS_FILE), *(model.model for model in result.models)):
            journal.is_sealed(run / file)  # one that is gone is no reason to fail
    amounts: Mapping[str, float] = journal.values.get("original/amounts") or {}
    held_out = (journal.values.get("accuracy/original") or {}).get("held_out")
    scales = time_scales(result, details, amounts)
    points = searched_points(steps, amounts if result is None else {}, held_out, scales)
    return AdaptRun(
        name=recorded.name,
        state=recorded.state,
        result=result,
        budgets=_budgets(recorded, result, amounts),
        original=amounts,
        metric=_metric(recorded, result),
        steps=steps,
        points=points if result is None else finished_points(result, points, amounts, held_out),
        scales=scales,
        measurements=tuple(_measurements(journal)),
        evaluations=_evaluations(journal),
        details=details,
        identity=recorded.identity,
        about=recorded.about,
    )


def _budgets(
    recorded: RecordedRun, result: AdaptResult | None, original: Mapping[str, float]
) -> tuple[BudgetLine, ...]:
    """The budgets of the tightest target; before the end their limits follow from what the original costs."""
    if result is not None:
        return tuple(BudgetLine(one.budget, one.resource, one.limit) for one in result.limits)
    lines = []
    for budget in parse_targets(recorded.identity["budget"], SEARCHED)[-1]:
        amount = original.get(budget.resource)
        is_known = amount is not None or not budget.relative
        lines.append(BudgetLine(str(budget), budget.resource, budget.limit(amount or 0.0) if is_known else None))
    return tuple(lines)


def _metric(recorded: RecordedRun, result: AdaptResult | None) -> str:
    """That of the validation samples, which a run records with its samples; `evaluate` where it has none."""
    samples = recorded.about.get("samples") or {}
    if "metric" in samples or result is None:
        return str(samples.get("metric", "evaluate"))
    return result.accuracy.metric


def _measurements(journal: Journal) -> Iterator[Measurement]:
    """The measurements of models that a run wrote into its journal, in their order."""
    for entry in journal.entries:
        resource, stage, iteration, *_ = [*entry.key.split("/"), "", ""]
        if resource.partition("@")[0] in SEARCHED and stage in STAGES and iteration.isdecimal():
            yield Measurement(resource, stage, int(iteration), msgspec.convert(entry.value, Ratio))


def _evaluations(journal: Journal) -> tuple[Evaluation, ...]:
    """The evaluations of the last final training."""
    trainings: Sequence[Any] = [e.value for e in journal.entries if e.key.startswith("training/evaluations/")]
    return tuple(Evaluation(*one) for one in trainings[-1]) if trainings else ()
