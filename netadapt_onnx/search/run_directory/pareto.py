"""The models of a run that no other beats: at most as costly in every budgeted resource, and more accurate."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from netadapt_onnx.common.resources import amounts
from netadapt_onnx.search.netadapt import Step
from netadapt_onnx.search.proposal import Amounts
from netadapt_onnx.search.result import Finished
from netadapt_onnx.search.run_directory.run import Run, write_json
from netadapt_onnx.search.worker import MODEL_FILE

PARETO_FILE = "pareto.json"


@dataclass(frozen=True)
class Point:
    """A model: `stage` is original, normalised (uncut), searched (as an iteration left it) or trained (finished).

    `accuracy` is that on all held-out samples; `resources` are in base units, those named in `measured` as measured, a
    latency that is not among them as predicted. `model` is its file in the run's directory, None if that was not kept.
    """

    stage: str
    iteration: int
    accuracy: float
    resources: Amounts
    groups: Mapping[str, int]
    model: str | None
    measured: tuple[str, ...] = ()


def write_front(
    run: Run, original: Point, steps: Sequence[Step], models: Sequence[Finished], resources: Sequence[str]
) -> None:
    """Write the models of a run that no other of it beats into its directory."""
    points = [original]
    for step in steps:
        file = run.iteration(step.iteration) / MODEL_FILE
        points.append(of_step(step, str(file.relative_to(run.path)) if file.exists() else None))
    for found in models:
        if found.iterations or found.latencies or found.measured:
            points.append(
                of_finished(found, steps[: found.iterations], original, str(found.model.relative_to(run.path)))
            )
    write_json(run.path / PARETO_FILE, {"resources": resources, "models": front(points, resources)})


def front(points: Sequence[Point], resources: Sequence[str]) -> tuple[Point, ...]:
    """The points that no other dominates, most accurate first; of equal ones the first."""
    found: list[Point] = []
    for point in points:
        if not any(_beats(other, point, resources) for other in points) and not any(
            _equal(other, point, resources) for other in found
        ):
            found.append(point)
    return tuple(sorted(found, key=lambda p: -p.accuracy))


def _beats(one: Point, other: Point, resources: Sequence[str]) -> bool:
    no_worse = one.accuracy >= other.accuracy and all(one.resources[r] <= other.resources[r] for r in resources)
    return no_worse and not _equal(one, other, resources)


def _equal(one: Point, other: Point, resources: Sequence[str]) -> bool:
    return one.accuracy == other.accuracy and all(one.resources[r] == other.resources[r] for r in resources)


def of_step(step: Step, model: str | None) -> Point:
    """The model of an iteration, as the search left it."""
    known = {**step.resources, **step.accepted.measured}
    measured = tuple(step.accepted.measured)
    return Point("searched", step.iteration, step.accepted.accuracy, known, step.widths, model, measured)


def of_finished(found: Finished, steps: Sequence[Step], original: Point, model: str) -> Point:
    """The model of a target, after the final training; without steps, the original normalised."""
    searched = of_step(steps[-1], None).resources if steps else original.resources
    known = {**searched, **{name: float(value) for name, value in amounts(found.after).items()}}
    known |= {name: latency.ratio * latency.before_ms for name, latency in found.latencies.items()}
    known |= {name: other.ratio * other.before for name, other in found.measured.items()}
    widths = {name: after for name, (_, after) in found.groups.items()}
    stage, measured = "trained" if steps else "normalised", (*found.latencies, *found.measured)
    return Point(stage, found.iterations, found.validation, known, widths, model, measured)
