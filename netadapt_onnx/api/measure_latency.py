"""How fast models run on random inputs, alone and beside each other: what the command `time` does."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Unpack

import onnx

from netadapt_onnx.api.options import MeasureLatencyOptions
from netadapt_onnx.api.source import Source, open_model
from netadapt_onnx.common.options import from_keywords
from netadapt_onnx.errors import NetadaptError
from netadapt_onnx.graph.fold_shapes import fold
from netadapt_onnx.graph.model import Model
from netadapt_onnx.graph.original_file import runs_as_given
from netadapt_onnx.graph.runtime import random_inputs
from netadapt_onnx.graph.shapes import Specs, format_shape
from netadapt_onnx.profilers.device import Device
from netadapt_onnx.profilers.devices.opening import open_device
from netadapt_onnx.profilers.execution import Execution, fingerprint
from netadapt_onnx.profilers.statistics import Disturbance, Ratio, Timing, disturbance_of_ratio
from netadapt_onnx.profilers.timing import TimingPlan, measure, ratios

if TYPE_CHECKING:
    from netadapt_onnx.api.keywords import MeasureLatencyKeywords

# Fresh sessions of one model differ by some 2%: with this many a side a difference of 3% shows.
SESSIONS, SMALLEST_DIFFERENCE = 20, 0.03


@dataclass(frozen=True)
class Interval:
    """A median over fresh sessions and its 95% interval."""

    median: float
    ci95: tuple[float, float]


@dataclass(frozen=True)
class ModelLatency:
    """The latency of one model.

    Attributes:
        path: Its file.
        latency_ms: Of one run.
        ratio: Its latency divided by the first model's, from sessions that ran in turn; None for the first model
            itself, and for a model that takes other inputs.
        sessions: How many fresh sessions of it were timed.
    """

    path: Path
    latency_ms: Interval
    ratio: Interval | None
    sessions: int

    @property
    def differs(self) -> bool:
        """Whether the interval of the ratio excludes that both models take the same time."""
        return self.ratio is not None and not self.ratio.ci95[0] <= 1 <= self.ratio.ci95[1]

    @property
    def undecided(self) -> bool:
        """Whether the interval is too wide to say that the model is faster, slower or about as fast as the first."""
        if self.ratio is None or self.differs:
            return False
        return self.ratio.ci95[1] - self.ratio.ci95[0] > 2 * SMALLEST_DIFFERENCE


@dataclass(frozen=True)
class Latencies:
    """The models in the order of the arguments.

    Attributes:
        models: Their latencies.
        device: The fingerprint of the device that they ran on.
        disturbance: By how much sessions of one model varied, and what else ran there; None of a quiet device.
        notes: What else a user should know of them.
    """

    models: tuple[ModelLatency, ...]
    device: Mapping[str, object]
    disturbance: Disturbance | None = None
    notes: tuple[str, ...] = ()


def measure_latency(models: Source | Sequence[Source], **options: Unpack[MeasureLatencyKeywords]) -> Latencies:
    """Time one or several models on random inputs of the shapes and types that they take.

    The files are timed as they are, in fresh sessions that run in turn, so that what disturbs the machine hits all of
    them alike. Each further model is compared with the first, if it takes the same inputs.

    Args:
        models: ONNX files, or loaded models.
        options: Those of the command `time`; None leaves one out.

    Returns:
        The models in the same order.

    Raises:
        NetadaptError: A model or the device cannot run, or an input has a dynamic axis that `shapes` does not give.

    >>> latencies = measure_latency(["before.onnx", "model.onnx"], time_cap_s=1.0)
    >>> [model.ratio is not None for model in latencies.models]
    [False, True]
    """
    settings = from_keywords(MeasureLatencyOptions, options)
    sources = [open_model(one) for one in ([models] if isinstance(models, str | os.PathLike | Model) else models)]
    if not sources:
        raise NetadaptError("no model to time", code="usage")
    execution = Execution(settings.ep, settings.threads, settings.ep_options, settings.ep_library)
    specs = [fold(source.proto, settings.shapes, settings.batch_size).specs for source in sources]
    forms = [runs_as_given(source) for source in sources]
    notes = [*(note for _, note in forms if note), *_other_inputs(sources, specs)]
    plan = TimingPlan(sessions=SESSIONS, time_cap_s=settings.time_cap_s)
    with open_device(
        settings.device,
        purpose=sources[0].path,
        python=settings.python,
        keep=settings.keep,
        perf_test=None if settings.perf_test is None else Path(settings.perf_test),
        log=settings.log,
    ) as device:
        timings, disturbance = _timed([proto for proto, _ in forms], specs, execution, plan, device)
        identity = fingerprint(execution, device.describe())
    if disturbance is not None:
        notes.append(disturbance.sentence(device.name))
    return Latencies(
        tuple(_model_latency(source.path, timing) for source, timing in zip(sources, timings, strict=True)),
        identity,
        disturbance,
        tuple(notes),
    )


def _timed(
    protos: Sequence[onnx.ModelProto],
    specs: Sequence[Specs],
    execution: Execution,
    plan: TimingPlan,
    device: Device,
) -> tuple[list[Timing | Ratio], Disturbance | None]:
    """The time of each model, relative to the first where it takes the same inputs, and what disturbed the device.

    Models that take other inputs cannot share a run with the first: those of equal inputs are timed in turn.
    """
    timings: dict[int, Timing | Ratio] = {}
    disturbances: list[Disturbance] = []
    for members in _by_inputs(specs):
        inputs, group = random_inputs(specs[members[0]]), [protos[i] for i in members]
        if members[0] == 0 and len(members) > 1:
            others = ratios(group[1:], group[0], inputs, execution, plan, device=device)
            timings |= zip(members, [others[0].reference, *others], strict=True)
            disturbances.append(disturbance_of_ratio(others[0]))
        else:
            times = measure(group, inputs, execution, plan, device=device, on_busy=disturbances.append)
            timings |= zip(members, times, strict=True)
    busy = [disturbance for disturbance in disturbances if disturbance.busy]
    worst = max(busy, key=lambda disturbance: disturbance.spread, default=None)
    return [timings[i] for i in range(len(protos))], worst


def _by_inputs(specs: Sequence[Specs]) -> Iterator[list[int]]:
    """The numbers of models that take the same inputs, the first model's first."""
    numbers: dict[str, list[int]] = {}
    for i, one in enumerate(specs):
        numbers.setdefault(str(sorted(one.items())), []).append(i)
    yield from numbers.values()


def _other_inputs(sources: Sequence[Model], specs: Sequence[Specs]) -> Iterator[str]:
    """A sentence on each model that takes other inputs than the first."""
    for source, one in zip(sources[1:], specs[1:], strict=True):
        if one != specs[0]:
            yield (
                f"{source.path} takes {_inputs(one)}, {sources[0].path} {_inputs(specs[0])}: they were timed one after "
                "the other, so that there is no ratio"
            )


def _inputs(specs: Specs) -> str:
    return ", ".join(f"{name} {format_shape(shape)} {dtype}" for name, (shape, dtype) in specs.items())


def _model_latency(path: Path, timing: Timing | Ratio) -> ModelLatency:
    if isinstance(timing, Timing):
        return ModelLatency(path, Interval(timing.median_ms, timing.ci95), None, timing.sessions)
    own = timing.model
    return ModelLatency(path, Interval(own.median_ms, own.ci95), Interval(timing.median, timing.ci95), own.sessions)
