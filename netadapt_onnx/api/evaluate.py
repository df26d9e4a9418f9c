"""How good and how fast models are, side by side: accuracy on a held-out split and interleaved times."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import onnx

from netadapt_onnx.api.source import Source, open_model
from netadapt_onnx.common.resources import Resources
from netadapt_onnx.data.dataset import held_out
from netadapt_onnx.data.evaluate import accuracy, outputs
from netadapt_onnx.data.load import dataset_for
from netadapt_onnx.data.sample_shapes import fold_for
from netadapt_onnx.errors import NetadaptError
from netadapt_onnx.graph.cost import cost
from netadapt_onnx.graph.folded_model import FoldedModel
from netadapt_onnx.graph.model import Model
from netadapt_onnx.graph.original_file import runs_as_given
from netadapt_onnx.graph.runtime import random_inputs
from netadapt_onnx.graph.shapes import Shapes
from netadapt_onnx.profilers.execution import Execution
from netadapt_onnx.profilers.statistics import Disturbance, Timing
from netadapt_onnx.profilers.timing import TimingPlan, measure
from netadapt_onnx.search import measured_check

# Seconds that a set of models may be timed for.
TIME_CAP_S = 20.0


@dataclass(frozen=True)
class Latency:
    """Median over fresh sessions and its 95% interval, in ms."""

    median: float
    ci95: tuple[float, float]


@dataclass(frozen=True)
class Evaluated:
    """One model. `metric` says what `accuracy` is: "top1", "r2", "miou", the user's own, or "agreement" with the first
    model without labels. Higher is better, 1 is perfect.

    `energy_mj`: of one run on this machine, where it was asked for.
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
    """The models in the order given. `notes`: what else to know of them."""

    models: tuple[Evaluated, ...]
    notes: tuple[str, ...] = ()


def evaluate(
    models: Source | Sequence[Source],
    data: str | os.PathLike[str],
    *,
    split: Literal["val", "test"] = "val",
    ep: str = "cpu",
    threads: int = 1,
    timed: bool = True,
    energy: bool = False,
    time_cap_s: float = TIME_CAP_S,
    shapes: Shapes | None = None,
    batch_size: int = 1,
) -> Evaluation:
    """Accuracy on a split of `data`, resources, and unless `timed` is off latency, of one or several models.

    The files are timed as they are, not as they are once normalised, those with the same inputs in interleaved rounds.
    With `energy` each is run for a second while counters
    or sensors of this machine are read. Without labels each is compared with the first one.
    Raises NetadaptError if a model cannot run, the data do not fit it, or nothing tells the energy (`unmeasurable`).

    >>> found = evaluate(["model.onnx", "before.onnx"], "data.npz", split="test", timed=False)
    >>> [(model.path.name, model.metric, model.split) for model in found.models]
    [('model.onnx', 'top1', 'test'), ('before.onnx', 'top1', 'test')]
    """
    given = [models] if isinstance(models, str | os.PathLike | Model) else list(models)
    if not given:
        raise NetadaptError("no model to evaluate", code="usage")
    sources = [open_model(model) for model in given]
    execution = Execution(ep, threads)
    folded = [fold_for(source.proto, shapes, data, batch_size) for source in sources]
    meters = [measured_check.energy(one.specs, execution) for one in folded] if energy else [None] * len(folded)
    datasets = [dataset_for(one, data, train=False) for one in folded]
    splits = [held_out(dataset, split) for dataset in datasets]
    run = [runs_as_given(source) if timed or energy else (source.proto, "") for source in sources]
    files, notes = [proto for proto, _ in run], [note for _, note in run if note]
    notes += dict.fromkeys(note for dataset in datasets for note in dataset.notes)
    busy: list[str] = []
    latencies = _timed(files, folded, execution, time_cap_s, busy) if timed else [None] * len(sources)
    notes += busy[:1]
    reference = None
    if splits[0].labels is None:
        reference = outputs(sources[0].proto, splits[0], threads=threads)
    evaluated = []
    each = zip(sources, files, folded, splits, latencies, meters, strict=True)
    for source, file, one, held, latency, meter in each:
        found = accuracy(source.proto, held, reference=reference, threads=threads)
        counted = cost(one.proto, one.shapes).to_resources(source.size_bytes)
        spent = None if meter is None else meter(file)
        evaluated.append(Evaluated(source.path, found.value, found.metric, split, counted, latency, spent))
    return Evaluation(tuple(evaluated), tuple(notes))


def _timed(
    files: Sequence[onnx.ModelProto],
    folded: Sequence[FoldedModel],
    execution: Execution,
    time_cap_s: float,
    busy: list[str],
) -> list[Latency | None]:
    """The latency of each file; `busy` gets what to say of a busy machine."""

    def tell(disturbance: Disturbance) -> None:
        busy.append(disturbance.sentence())

    alike: dict[str, list[int]] = {}
    for i, one in enumerate(folded):
        alike.setdefault(str(sorted(one.specs.items())), []).append(i)
    plan = TimingPlan(time_cap_s=time_cap_s)
    found: dict[int, Latency] = {}
    for members in alike.values():
        inputs = random_inputs(folded[members[0]].specs)
        timings = measure([files[i] for i in members], inputs, execution, plan, on_busy=tell)
        found |= dict(zip(members, map(latency, timings), strict=True))
    return [found[i] for i in range(len(files))]


def latency(timing: Timing) -> Latency:
    """A timing as results show it."""
    return Latency(timing.median_ms, timing.ci95)
