"""A run of `adapt`, read back from its directory."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Set
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from netadapt_onnx.common.resources import amounts
from netadapt_onnx.profilers.statistics import Ratio
from netadapt_onnx.reporting.finished_run import FinishedRun
from netadapt_onnx.search.netadapt import Step
from netadapt_onnx.search.result import AdaptResult
from netadapt_onnx.search.run_directory.journal import read_history, read_journal
from netadapt_onnx.search.run_directory.layer_changes import DETAILS_FILE, Details, read_details

STAGES = ("brief", "searched", "final")


@dataclass(frozen=True)
class Point:
    """A model that a run evaluated: `kind` is original, proposal, accepted or result; `resources` are in base units.

    Resources of proposals and accepted models are predictions. A latency that a relative budget limits is scaled to ms
    of the final measurement, because the table was measured at another time. `accuracy` of proposals and accepted
    models is that on validation samples, before the final training.
    """

    kind: str
    iteration: int
    group: str
    accuracy: float
    resources: Mapping[str, float]


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
class AdaptRun:
    """A finished run of `adapt`.

    `points` are all models that were evaluated; `identity` and `about` are those of `run.json`: the arguments and
    hashes that decide the result, and versions, device and command.
    """

    name: str
    result: AdaptResult
    steps: tuple[Step, ...]
    points: tuple[Point, ...]
    measurements: tuple[Measurement, ...]
    details: Details
    identity: Mapping[str, Any]
    about: Mapping[str, Any]

    @property
    def budget_resources(self) -> list[str]:
        """The resources that have a budget, in the order of the budgets."""
        return list(dict.fromkeys(limit.budget.split("=")[0] for limit in self.result.limits))

    @property
    def metric(self) -> str:
        """The name of the metric that accuracies are measured in."""
        return self.result.accuracy.metric


def read_adapt_run(finished: FinishedRun, run: Path) -> AdaptRun:
    """Read what a run of `adapt` did from its directory.

    Args:
        finished: The run's result and identity.
        run: The run's directory.

    Raises:
        NetadaptError: The result or the history is not readable, or a file was changed since the run wrote it.
    """
    result = finished.result(AdaptResult)
    for file in (Path(DETAILS_FILE), *(model.model for model in result.models)):
        read_journal(run).is_sealed(run / file)  # one that is gone is no reason to fail
    steps = tuple(read_history(run, Step))
    details = read_details(run)
    return AdaptRun(
        finished.name,
        result,
        steps,
        points(result, steps, time_scales(result, details)),
        tuple(_measurements(run, {*result.latencies, *result.measured})),
        details,
        finished.identity,
        finished.about,
    )


def _measurements(run: Path, resources: Set[str]) -> Iterator[Measurement]:
    """The measurements of `resources` that the run wrote into its journal, in their order."""
    for entry in read_journal(run).entries:
        resource, stage, iteration, *_ = [*entry.key.split("/"), "", ""]
        if resource in resources and stage in STAGES and iteration.isdecimal():
            yield Measurement(resource, stage, int(iteration), msgspec.convert(entry.value, Ratio))


def time_scales(result: AdaptResult, details: Details) -> dict[str, float]:
    """The original's time in the final measurement divided by the time that its table predicts, by resource.

    Only resources with a relative budget have one. A table predicts the time of the normalised original.
    """
    scales = {}
    for limit in result.limits:
        name = limit.budget.split("=")[0]
        predicted_ms = sum(layer.times_ms.get(name, (0.0, 0.0))[0] for layer in details.layers)
        if limit.budget.endswith("x") and name in result.latencies and predicted_ms:
            share = result.normalising[name].ratio if name in result.normalising else 1.0
            scales[name] = result.latencies[name].before_ms * share / predicted_ms
    return scales


def points(result: AdaptResult, steps: tuple[Step, ...], scales: Mapping[str, float]) -> tuple[Point, ...]:
    """All models that a run evaluated, from the original to the result.

    Args:
        result: The run's result.
        steps: The accepted iterations, with their proposals.
        scales: Factors, by resource, from predicted to measured values (`time_scales`).
    """

    def scaled(resources: Mapping[str, float]) -> dict[str, float]:
        return {name: value * scales.get(name, 1.0) for name, value in resources.items()}

    evaluated = [Point("original", 0, "", result.accuracy.before, _resources(result, "before"))]
    for step in steps:
        for proposal in step.tried:
            if proposal.accuracy is not None:
                resources = scaled(proposal.resources)
                evaluated.append(Point("proposal", step.iteration, proposal.group, proposal.accuracy, resources))
        evaluated.append(Point("accepted", step.iteration, step.group, step.accepted.accuracy, scaled(step.resources)))
    evaluated.append(Point("result", result.iterations, "", result.accuracy.after, _resources(result, "after")))
    return tuple(evaluated)


def _resources(result: AdaptResult, when: str) -> dict[str, float]:
    cost = getattr(result, when)
    values = amounts(cost)
    values |= {name: getattr(latency, f"{when}_ms") for name, latency in result.latencies.items()}
    values |= {name: getattr(measured, when) for name, measured in result.measured.items()}
    return {name: float(value) for name, value in values.items()}
