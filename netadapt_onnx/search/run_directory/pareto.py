"""The models of a run that no other beats: at most as costly in every budgeted resource, and more accurate."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from netadapt_onnx.common.json_output import write_json
from netadapt_onnx.common.resources import amounts
from netadapt_onnx.search.netadapt import Step
from netadapt_onnx.search.proposals import Amounts
from netadapt_onnx.search.result import TargetResult
from netadapt_onnx.search.run_directory.file_names import MODEL_FILE
from netadapt_onnx.search.run_directory.run import Run

PARETO_FILE = "pareto.json"


@dataclass(frozen=True)
class Point:
    """A model of a run.

    Attributes:
        stage: `original`, `normalised` (uncut), `searched` (as an iteration left it) or `trained` (finished).
        iteration: The iteration that it is of.
        accuracy: Its accuracy on all validation samples.
        resources: Its resources in base units; a latency that was not measured is predicted.
        groups: The channel count of every group.
        model: Its file in the run directory; None if that was not kept.
        measured: The names of the resources that were measured.
    """

    stage: str
    iteration: int
    accuracy: float
    resources: Amounts
    groups: Mapping[str, int]
    model: str | None
    measured: tuple[str, ...] = ()


def write_front(
    run: Run, original: Point, steps: Sequence[Step], models: Sequence[TargetResult], resources: Sequence[str]
) -> None:
    """Write the models of a run that no other of it beats into its directory."""
    points = [original]
    for step in steps:
        path = run.iteration(step.iteration) / MODEL_FILE
        points.append(of_step(step, str(path.relative_to(run.path)) if path.exists() else None))
    for model in models:
        if model.iterations or model.latencies or model.measured:
            file = str(model.model.relative_to(run.path))
            points.append(of_target(model, steps[: model.iterations], original, file))
    write_json(run.path / PARETO_FILE, {"resources": resources, "models": front(points, resources)})


def front(points: Sequence[Point], resources: Sequence[str]) -> tuple[Point, ...]:
    """The points that no other dominates, most accurate first; of equal ones the first."""
    best: list[Point] = []
    for point in points:
        if not any(_beats(other, point, resources) for other in points) and not any(
            _equal(other, point, resources) for other in best
        ):
            best.append(point)
    return tuple(sorted(best, key=lambda p: -p.accuracy))


def _beats(one: Point, other: Point, resources: Sequence[str]) -> bool:
    no_worse = one.accuracy >= other.accuracy and all(one.resources[r] <= other.resources[r] for r in resources)
    return no_worse and not _equal(one, other, resources)


def _equal(one: Point, other: Point, resources: Sequence[str]) -> bool:
    return one.accuracy == other.accuracy and all(one.resources[r] == other.resources[r] for r in resources)


def of_step(step: Step, model: str | None) -> Point:
    """The model of an iteration, as the search left it."""
    resources = {**step.resources, **step.accepted.measured}
    measured = tuple(step.accepted.measured)
    return Point("searched", step.iteration, step.accepted.accuracy, resources, step.widths, model, measured)


def of_target(finished: TargetResult, steps: Sequence[Step], original: Point, model: str) -> Point:
    """The model of a target, after the final training; without steps, the original normalised."""
    searched = of_step(steps[-1], None).resources if steps else original.resources
    resources = {**searched, **{name: float(value) for name, value in amounts(finished.after).items()}}
    resources |= {name: latency.ratio * latency.before_ms for name, latency in finished.latencies.items()}
    resources |= {name: other.ratio * other.before for name, other in finished.measured.items()}
    widths = {name: after for name, (_, after) in finished.groups.items()}
    stage, measured = "trained" if steps else "normalised", (*finished.latencies, *finished.measured)
    return Point(stage, finished.iterations, finished.validation, resources, widths, model, measured)
