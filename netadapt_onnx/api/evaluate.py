"""`evaluate`: accuracy on a split, resources and latency of models, side by side."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Unpack

import onnx

from netadapt_onnx.api.options import EvaluateOptions
from netadapt_onnx.api.source import Source, open_model
from netadapt_onnx.common.options import File, from_keywords
from netadapt_onnx.common.resources import Resources
from netadapt_onnx.data.dataset import Split
from netadapt_onnx.data.evaluate import Accuracy, accuracy, reference_outputs
from netadapt_onnx.data.guessing import guessing_note
from netadapt_onnx.data.load_dataset import load_dataset
from netadapt_onnx.data.sample_shapes import fold_for
from netadapt_onnx.errors import NetadaptError
from netadapt_onnx.graph.cost import cost
from netadapt_onnx.graph.folded_model import FoldedModel
from netadapt_onnx.graph.model import Model
from netadapt_onnx.graph.original_file import runs_as_given
from netadapt_onnx.graph.runtime import random_inputs
from netadapt_onnx.profilers.execution import Execution
from netadapt_onnx.profilers.statistics import Timing
from netadapt_onnx.profilers.timing import TimingPlan, measure
from netadapt_onnx.search.budget_check import resource_functions

if TYPE_CHECKING:
    from netadapt_onnx.api.keywords import EvaluateKeywords


@dataclass(frozen=True)
class Latency:
    """Median over fresh sessions and its 95% interval, in ms."""

    median: float
    ci95: tuple[float, float]


@dataclass(frozen=True)
class ModelEvaluation:
    """One model.

    Attributes:
        path: Its file.
        accuracy: Higher is better, 1 is perfect.
        metric: "top1", "r2", "miou", the user's own, or without labels "agreement" with the first model.
        split: The samples that were scored.
        resources: What the model costs.
        latency_ms: Of one run, where it was timed.
        energy_mj: Of one run on this machine, where it was measured.
    """

    path: Path
    accuracy: float
    metric: str
    split: str
    resources: Resources
    latency_ms: Latency | None
    energy_mj: float | None = None


@dataclass(frozen=True)
class Evaluation:
    """The models in the order of the arguments. `notes`: what else a user should know of them."""

    models: tuple[ModelEvaluation, ...]
    notes: tuple[str, ...] = ()


def evaluate(models: Source | Sequence[Source], data: File, **options: Unpack[EvaluateKeywords]) -> Evaluation:
    """Accuracy on a split of `data`, resources, and unless `timed` is off latency, of one or several models.

    Without labels each model is compared with the first one. The files are timed as they are, those with the same
    inputs in interleaved rounds. With `energy` each is run for a second while counters or sensors of this machine are
    read.

    Args:
        models: ONNX files, or loaded models.
        data: A path, `FILE.py:FUNCTION` or a `DataSource`.
        options: Those of the command `evaluate`; None leaves one out.

    Returns:
        The models in the same order.

    Raises:
        NetadaptError: A model cannot run, the data do not fit it, or nothing tells the energy (`unmeasurable`).

    >>> evaluation = evaluate(["model.onnx", "before.onnx"], "data.npz", split="test", timed=False)
    >>> [(model.path.name, model.metric, model.split) for model in evaluation.models]
    [('model.onnx', 'top1', 'test'), ('before.onnx', 'top1', 'test')]
    """
    settings = from_keywords(EvaluateOptions, options)
    sources = [open_model(one) for one in ([models] if isinstance(models, str | os.PathLike | Model) else models)]
    if not sources:
        raise NetadaptError("no model to evaluate", code="usage")
    execution = Execution(settings.ep, settings.threads)
    folded = [fold_for(source.proto, settings.shapes, data, settings.batch_size) for source in sources]
    meters = [resource_functions.energy(one.specs, execution) for one in folded] if settings.energy else []
    datasets = [load_dataset(one, data, train=False) for one in folded]
    splits = [dataset.split(settings.split) for dataset in datasets]
    runs = settings.timed or settings.energy
    # As onnxruntime runs them: the files as they are where it can, and a note where it cannot.
    forms = [runs_as_given(source) if runs else (source.proto, "") for source in sources]
    files, notes = [proto for proto, _ in forms], [note for _, note in forms if note]
    notes += dict.fromkeys(note for dataset in datasets for note in dataset.notes)
    latencies: Sequence[Latency | None] = [None] * len(files)
    if settings.timed:
        latencies, disturbances = _latencies(files, folded, execution, settings.time_cap_s)
        notes += disturbances[:1]
    scores = _accuracies(sources, splits, settings.threads)
    if guessing := guessing_note(str(sources[0].path), splits[0], scores[0].metric, scores[0].value):
        notes.append(guessing)
    energies = (
        [meter(file) for meter, file in zip(meters, files, strict=True)] if settings.energy else [None] * len(sources)
    )
    resources = [
        cost(one.proto, one.shapes).to_resources(source.size_bytes) for source, one in zip(sources, folded, strict=True)
    ]
    evaluations = [
        ModelEvaluation(source.path, score.value, score.metric, settings.split, one, latency_ms, energy_mj)
        for source, one, score, latency_ms, energy_mj in zip(
            sources, resources, scores, latencies, energies, strict=True
        )
    ]
    return Evaluation(tuple(evaluations), tuple(notes))


def _accuracies(sources: Sequence[Model], splits: Sequence[Split], threads: int) -> list[Accuracy]:
    """The accuracy of each model; without labels its agreement with the first one."""
    reference = reference_outputs(splits[0], sources[0].proto, threads=threads)
    return [
        accuracy(model.proto, split, reference=reference, threads=threads)
        for model, split in zip(sources, splits, strict=True)
    ]


def _latencies(
    files: Sequence[onnx.ModelProto], folded: Sequence[FoldedModel], execution: Execution, time_cap_s: float
) -> tuple[list[Latency], list[str]]:
    """The latency of each file, and a sentence on each disturbance of the machine."""
    disturbances: list[str] = []
    latencies: dict[int, Latency] = {}
    by_inputs: dict[str, list[int]] = {}
    for i, one in enumerate(folded):
        by_inputs.setdefault(str(sorted(one.specs.items())), []).append(i)
    for members in by_inputs.values():
        timings = measure(
            [files[i] for i in members],
            random_inputs(folded[members[0]].specs),
            execution,
            TimingPlan(time_cap_s=time_cap_s),
            on_busy=lambda disturbance: disturbances.append(disturbance.sentence()),
        )
        latencies |= zip(members, map(latency, timings), strict=True)
    return [latencies[i] for i in range(len(files))], disturbances


def latency(timing: Timing) -> Latency:
    """A timing as results have it."""
    return Latency(timing.median_ms, timing.ci95)
