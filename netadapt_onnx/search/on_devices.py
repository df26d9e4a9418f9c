"""How accurate what is deployed is on the devices it is for: other kernels may give other numbers."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from functools import partial

import msgspec
import onnx

from netadapt_onnx.common.resources import LATENCY
from netadapt_onnx.errors import NetadaptError
from netadapt_onnx.graph.runtime import Arrays
from netadapt_onnx.profilers.device import Device
from netadapt_onnx.profilers.devices.local import LocalDevice
from netadapt_onnx.profilers.execution import Execution
from netadapt_onnx.profilers.outputs import outputs_on_device
from netadapt_onnx.search.evaluator import DataJudge, Evaluator
from netadapt_onnx.search.latency_check import MeasuredLatency
from netadapt_onnx.search.result import OnDevice
from netadapt_onnx.search.run_directory.run import Run

# What a slow link carries in half a minute; CIFAR's 10,000 pictures are 123 MB.
MOST_BYTES = 1 << 24
# Kernels that round in another order change a level here and there; more than this is another answer.
ALIKE = 0.01


def on_devices(
    run: Run,
    name: str,
    gauges: Mapping[str, MeasuredLatency],
    judge: Evaluator,
    execution: Execution,
    proto: onnx.ModelProto,
) -> tuple[dict[str, OnDevice], tuple[str, ...]]:
    """By resource, what each device but this machine's CPU makes of a model; and what to know of that.

    A caller's own function judges where it likes, and is not asked again. Answers are journalled.
    """
    found: dict[str, OnDevice] = {}
    notes: list[str] = []
    for resource, gauge in gauges.items():
        device = gauge.device
        if not resource.startswith(LATENCY) or not isinstance(judge, DataJudge):
            continue
        if type(device) is LocalDevice and execution.ep == "cpu":
            continue  # the judge's kernels are its own
        place = "the device" if device is None else device.name
        unasked = f"int8 accuracy is by this machine's kernels: {place} could not be asked"
        if device is None:
            notes.append(f"{unasked}, only a bundle gets there")
            continue
        digest = hashlib.sha256(proto.SerializeToString(deterministic=True)).hexdigest()[:16]
        key = f"accuracy/{name}/{digest}/{resource}"
        there = run.once(key, partial(_asked, device, judge, execution, proto))
        if there is None:
            notes.append(f"{unasked}, it runs no Python, or not this model")
            continue
        found[resource] = msgspec.convert(there, OnDevice)
        apart = found[resource].accuracy - found[resource].here
        if abs(apart) > ALIKE:
            notes.append(
                f"{place} computes other numbers than this machine: {judge.reported_metric} differs by {apart:+.3f} on "
                f"{found[resource].samples} samples; that of the device counts"
            )
    return found, tuple(notes)


class _CannotAnswerError(Exception):
    """The device only measures."""


def _asked(device: Device, judge: DataJudge, execution: Execution, proto: onnx.ModelProto) -> OnDevice | None:
    def compute(model: onnx.ModelProto, batches: Iterable[Arrays]) -> list[Arrays]:
        answers = outputs_on_device(device, execution, model, batches)
        if answers is None:
            raise _CannotAnswerError
        return answers

    try:
        there, here = judge.computed(proto, compute, MOST_BYTES)
    except _CannotAnswerError:
        return None
    except NetadaptError as error:
        if error.code == "not-portable":
            return None
        raise
    return OnDevice(there.value, here.value, there.samples)
