"""What happened in a run of `adapt`, read back from its directory."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Set
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from netadapt_onnx.common.resources import amounts
from netadapt_onnx.profilers.statistics import Ratio
from netadapt_onnx.reporting.recorded import Recorded
from netadapt_onnx.search.netadapt import Step
from netadapt_onnx.search.result import AdaptResult
from netadapt_onnx.search.run_directory.details import DETAILS_FILE, Details, read_details
from netadapt_onnx.search.run_directory.journal import read_history, read_journal

STAGES = ("brief", "searched", "final")


@dataclass(frozen=True)
class Point:
    """A model that a run met: `resources` as predicted, in base units; `kind`: original, proposal, accepted or result.

    A latency that a relative budget limits is in ms of the final measurement: a table's ms are those of its own hour.
    `accuracy` of proposals and accepted models is that on held-out samples, before the final training.
    """

    kind: str
    iteration: int
    group: str
    accuracy: float
    resources: Mapping[str, float]


@dataclass(frozen=True)
class Measurement:
    """A model that was measured beside the original: after which iteration, and how carefully (`stage`).

    `brief` once it was accepted, `searched` with care since it was near the budget, `final` after the final training.
    """

    resource: str
    stage: str
    iteration: int
    ratio: Ratio


@dataclass(frozen=True)
class Story:
    """A run: its name, outcome, steps, every model it met, and what it was made with (`identity`, `about`)."""

    name: str
    result: AdaptResult
    steps: tuple[Step, ...]
    points: tuple[Point, ...]
    measurements: tuple[Measurement, ...]
    details: Details
    identity: Mapping[str, Any]
    about: Mapping[str, Any]

    @property
    def driven(self) -> list[str]:
        """The resources that budgets speak of, in the order in which they were given."""
        return list(dict.fromkeys(limit.budget.split("=")[0] for limit in self.result.limits))

    @property
    def metric(self) -> str:
        """What accuracies are."""
        return self.result.accuracy.metric


def read_adapted(recorded: Recorded, run: Path) -> Story:
    """What a run of `adapt` did."""
    result = recorded.result(AdaptResult)
    for file in (Path(DETAILS_FILE), *(model.model for model in result.models)):
        read_journal(run).is_sealed(run / file)  # one that is gone is no reason to fail
    steps = tuple(read_history(run, Step))
    details = read_details(run)
    return Story(
        recorded.name,
        result,
        steps,
        _points(result, steps, _paces(result, details)),
        tuple(_measurements(run, {*result.latencies, *result.measured})),
        details,
        recorded.identity,
        recorded.about,
    )


def _measurements(run: Path, resources: Set[str]) -> Iterator[Measurement]:
    """Those of `resources` that the run wrote into its journal, in their order."""
    for entry in read_journal(run).entries:
        resource, stage, iteration, *_ = [*entry.key.split("/"), "", ""]
        if resource in resources and stage in STAGES and iteration.isdecimal():
            yield Measurement(resource, stage, int(iteration), msgspec.convert(entry.value, Ratio))


def _paces(result: AdaptResult, details: Details) -> dict[str, float]:
    """By resource, the original's time in the final measurement over what its table says, where shares are compared.

    A table speaks of the normalised original.
    """
    found = {}
    for limit in result.limits:
        name = limit.budget.split("=")[0]
        said = sum(layer.times_ms.get(name, (0.0, 0.0))[0] for layer in details.layers)
        if limit.budget.endswith("x") and name in result.latencies and said:
            share = result.normalising[name].ratio if name in result.normalising else 1.0
            found[name] = result.latencies[name].before_ms * share / said
    return found


def _points(result: AdaptResult, steps: tuple[Step, ...], paces: Mapping[str, float]) -> tuple[Point, ...]:
    def paced(resources: Mapping[str, float]) -> dict[str, float]:
        return {name: value * paces.get(name, 1.0) for name, value in resources.items()}

    found = [Point("original", 0, "", result.accuracy.before, _resources(result, "before"))]
    for step in steps:
        for tried in step.tried:
            if tried.accuracy is not None:
                found.append(Point("proposal", step.iteration, tried.group, tried.accuracy, paced(tried.resources)))
        found.append(Point("accepted", step.iteration, step.group, step.accepted.accuracy, paced(step.resources)))
    found.append(Point("result", result.iterations, "", result.accuracy.after, _resources(result, "after")))
    return tuple(found)


def _resources(result: AdaptResult, when: str) -> dict[str, float]:
    cost = getattr(result, when)
    known = amounts(cost)
    known |= {name: getattr(latency, f"{when}_ms") for name, latency in result.latencies.items()}
    known |= {name: getattr(found, when) for name, found in result.measured.items()}
    return {name: float(value) for name, value in known.items()}
