"""The models that a run of `adapt` evaluated, as points of charts: all of one split, and times of one hour."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from netadapt_onnx.common.resources import amounts
from netadapt_onnx.search.netadapt import Step
from netadapt_onnx.search.result import AdaptResult
from netadapt_onnx.search.run_directory.layer_changes import Details


@dataclass(frozen=True)
class Point:
    """A model that a run evaluated: `kind` is original, proposal, accepted or result; `resources` are in base units.

    `accuracy` is that on validation samples: of proposals and accepted models before the final training, of the result
    after it. (A run of `scale` has the accuracy that it reports.) Resources of proposals are predictions; those of
    accepted models are `measured` where anything was. A latency that a relative budget limits is scaled to ms of the
    final measurement, because the table was measured at another time.
    """

    kind: str
    iteration: int
    group: str
    accuracy: float
    resources: Mapping[str, float]
    measured: tuple[str, ...] = ()


def time_scales(result: AdaptResult | None, details: Details, original: Mapping[str, float]) -> dict[str, float]:
    """The original's time in the final measurement divided by the time that the search took it for, by resource.

    Only resources with a relative budget have one. For runs of versions that did not record what the search took the
    original for, that is what a table predicts of its layers, which are those of the normalised original.

    Args:
        result: The run's result; None for a run that has not ended, whose times stay as they are.
        details: The layers.
        original: The original's resources as the search had them; empty in runs of earlier versions.
    """
    scales: dict[str, float] = {}
    if result is None:
        return scales
    for limit in result.limits:
        name = limit.resource
        if not limit.budget.endswith("x") or name not in result.latencies:
            continue
        predicted_ms = sum(layer.times_ms.get(name, (0.0, 0.0))[0] for layer in details.layers)
        share = result.normalising[name].ratio if name in result.normalising else 1.0
        if original.get(name):
            scales[name] = result.latencies[name].before_ms / original[name]
        elif predicted_ms:
            scales[name] = result.latencies[name].before_ms * share / predicted_ms
    return scales


def searched_points(
    steps: Sequence[Step], original: Mapping[str, float], held_out: float | None, scales: Mapping[str, float]
) -> tuple[Point, ...]:
    """The models of the iterations, after the original where its resources and its accuracy are known."""

    def scaled(resources: Mapping[str, float]) -> dict[str, float]:
        return {name: value * scales.get(name, 1.0) for name, value in resources.items()}

    points = [Point("original", 0, "", held_out, dict(original))] if original and held_out is not None else []
    for step in steps:
        for proposal in step.tried:
            if proposal.accuracy is not None:
                resources = scaled(proposal.resources)
                points.append(Point("proposal", step.iteration, proposal.group, proposal.accuracy, resources))
        accepted, measured = step.accepted, tuple(step.accepted.measured)
        resources = scaled({**step.resources, **accepted.measured})
        points.append(Point("accepted", step.iteration, step.group, accepted.accuracy, resources, measured))
    return tuple(points)


def finished_points(
    result: AdaptResult, searched: Sequence[Point], original: Mapping[str, float], held_out: float | None
) -> tuple[Point, ...]:
    """All models of a run that has ended, from the original to the results of all its targets.

    Where only a table predicts a resource, the original costs of it what the search took it for.
    """
    first = result.accuracy.before if held_out is None else held_out
    points = [Point("original", 0, "", first, {**original, **_resources(result, "before")}), *searched]
    for model in result.models:
        measured = (*model.latencies, *model.measured)
        predicted = {limit.resource: limit.value for limit in model.limits}
        resources = predicted | _resources(model, "after")
        points.append(Point("result", model.iterations, model.budget, model.validation, resources, measured))
    return tuple(points)


def _resources(result: Any, when: str) -> dict[str, float]:
    values = amounts(getattr(result, when))
    values |= {name: getattr(latency, f"{when}_ms") for name, latency in result.latencies.items()}
    values |= {name: getattr(measured, when) for name, measured in result.measured.items()}
    return {name: float(value) for name, value in values.items()}
