"""Times of models as a whole that hold on a busy machine: fresh sessions that run in turn (`agent.py`)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import onnx

from netadapt_onnx.common.progress import steps
from netadapt_onnx.graph.runtime import Arrays
from netadapt_onnx.profilers.device import Device, Order, measure_on
from netadapt_onnx.profilers.devices.local import LocalDevice
from netadapt_onnx.profilers.execution import CPU, Execution
from netadapt_onnx.profilers.records import REFERENCE, Job, MeasuredModel, Until
from netadapt_onnx.profilers.statistics import (
    Disturbance,
    Ratio,
    Timing,
    disturbance_of_records,
    ratio_of_pairs,
    signed_rank_interval,
    timing_of_sessions,
)

SESSIONS = 9
# Times are precise enough after so many rounds at the earliest.
LEAST_ROUNDS = 30


@dataclass(frozen=True)
class TimingPlan:
    """How long models are timed, and what counts of each session.

    Attributes:
        sessions: how many fresh sessions each model gets.
        time_cap_s: seconds of running after which timing ends in any case.
        precision: timing ends earlier once the interval of every median is within +- this share of it.
        undisturbed: of a comparison, whether a session counts by the mean of its fastest tenth of runs, which
            disturbances hardly reach, instead of its median. Ratios of those are symmetric, and the interval of their
            centre is narrower.
        confidence: the confidence of that interval.
        seed: the seed of the order in which sessions take turns.
    """

    sessions: int = SESSIONS
    time_cap_s: float = 20.0
    precision: float = 0.01
    undisturbed: bool = False
    confidence: float = 0.95
    seed: int = 0


DEFAULT_PLAN = TimingPlan()


def measure(
    models: Sequence[onnx.ModelProto],
    inputs: Arrays,
    execution: Execution = CPU,
    plan: TimingPlan = DEFAULT_PLAN,
    *,
    device: Device | None = None,
    on_busy: Callable[[Disturbance], None] | None = None,
) -> tuple[Timing, ...]:
    """Time models against each other, each in fresh sessions that all run in turn.

    Args:
        models: what to time.
        inputs: the inputs that all of them take.
        execution: how they run.
        plan: how long they are timed.
        device: where they run (None: on this machine).
        on_busy: called where something disturbed the device.

    Returns:
        The time of each model, in the order of `models`.
    """
    order = Order(dict(enumerate(models)), inputs, execution, (timing_job(range(len(models)), plan),))
    with steps("measuring", bound_s=plan.time_cap_s):
        records = measure_on(device or LocalDevice(), order)
    disturbance = disturbance_of_records(list(records.values()))
    if on_busy is not None and disturbance.busy:
        on_busy(disturbance)
    return tuple(timing_of_sessions(records[i].median_ms) for i in range(len(models)))


def timing_job(models: Sequence[int], plan: TimingPlan, until: Until = "each", reference: int | None = None) -> Job:
    """The job of timing models by number; `until` says what has to be precise, `reference` what they compare with."""
    precision, rounds = plan.precision, (LEAST_ROUNDS, None)
    return Job(tuple(models), reference, False, plan.sessions, until, precision, rounds, plan.time_cap_s, plan.seed)


def ratio(
    model: onnx.ModelProto,
    reference: onnx.ModelProto,
    inputs: Arrays,
    execution: Execution = CPU,
    plan: TimingPlan = DEFAULT_PLAN,
    *,
    device: Device | None = None,
) -> Ratio:
    """Time `model` relative to `reference`, in pairs of fresh sessions that take turns; see `ratios`."""
    return ratios([model], reference, inputs, execution, plan, device=device)[0]


def ratios(
    models: Sequence[onnx.ModelProto],
    reference: onnx.ModelProto,
    inputs: Arrays,
    execution: Execution = CPU,
    plan: TimingPlan = DEFAULT_PLAN,
    *,
    device: Device | None = None,
) -> tuple[Ratio, ...]:
    """Time models relative to `reference`, in fresh sessions that all take turns.

    Args:
        models: what to time.
        reference: what each of them is compared with.
        inputs: the inputs that all of them take.
        execution: how they run.
        plan: how long they are timed, and what counts of each session.
        device: where they run (None: on this machine).

    Returns:
        The time of each model relative to the reference's, in the order of `models`.
    """
    until: Until = "each" if len(models) > 1 else "undisturbed" if plan.undisturbed else "ratio"
    job = timing_job(range(len(models)), plan, until, REFERENCE)
    order = Order({**dict(enumerate(models)), REFERENCE: reference}, inputs, execution, (job,))
    with steps("measuring", bound_s=plan.time_cap_s):
        records = measure_on(device or LocalDevice(), order)
    return tuple(_ratio(records[i], plan) for i in range(len(models)))


def _ratio(record: MeasuredModel, plan: TimingPlan) -> Ratio:
    """The time of a measured model relative to the reference beside it, by what counts of each session."""
    fastest = (tuple(record.ms), tuple(record.reference_ms))
    if plan.undisturbed:
        result = ratio_of_pairs(*fastest)
        result = replace(result, ci95=signed_rank_interval(np.divide(*fastest), plan.confidence))
    else:
        result = ratio_of_pairs(record.median_ms, record.reference_median_ms)
    return replace(result, undisturbed_ms=fastest, others=record.others, cores=record.cores)
