"""How accurate what is deployed is on the devices it is for: other kernels may compute other numbers."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from functools import partial

import msgspec
import onnx

from netadapt_onnx.common.resources import LATENCY
from netadapt_onnx.errors import NetadaptError
from netadapt_onnx.graph.runtime import Arrays
from netadapt_onnx.profilers.device import Device, outputs_on_device
from netadapt_onnx.profilers.devices.local import LocalDevice
from netadapt_onnx.profilers.execution import Execution
from netadapt_onnx.search.context import SearchContext
from netadapt_onnx.search.evaluator import DataEvaluator
from netadapt_onnx.search.result import OnDevice

# What a slow link carries in half a minute; CIFAR's 10,000 pictures are 123 MB.
MOST_BYTES = 1 << 24
# Kernels that round in another order change a level here and there; a larger difference is noted.
EQUAL_ACCURACY = 0.01


def device_accuracies(
    context: SearchContext, name: str, proto: onnx.ModelProto
) -> tuple[dict[str, OnDevice], tuple[str, ...]]:
    """The accuracy of a model on every device but this machine's CPU; each is journalled.

    A caller's own function evaluates where it likes, and is not called again.

    Args:
        context: The search.
        name: The name of the model, for the journal.
        proto: The model.

    Returns:
        The accuracies by resource, and notes on them.
    """
    accuracies: dict[str, OnDevice] = {}
    notes: list[str] = []
    evaluator, execution = context.evaluator, context.execution
    for resource, check in context.budget_checks.items():
        device = check.device
        if not resource.startswith(LATENCY) or not isinstance(evaluator, DataEvaluator):
            continue
        if type(device) is LocalDevice and execution.ep == "cpu":
            continue  # the evaluator runs the same kernels
        device_name = "the device" if device is None else device.name
        unknown = f"int8 accuracy is by this machine's kernels: {device_name} could not be asked"
        if device is None:
            notes.append(f"{unknown}, only a bundle gets there")
            continue
        digest = hashlib.sha256(proto.SerializeToString(deterministic=True)).hexdigest()[:16]
        key = f"accuracy/{name}/{digest}/{resource}"
        answer = context.run.once(key, partial(_device_accuracy, device, evaluator, execution, proto))
        if answer is None:
            notes.append(f"{unknown}, it runs no Python, or not this model")
            continue
        accuracies[resource] = msgspec.convert(answer, OnDevice)
        difference = accuracies[resource].accuracy - accuracies[resource].here
        if abs(difference) > EQUAL_ACCURACY:
            notes.append(
                f"{device_name} computes other numbers than this machine: {evaluator.test_metric} differs by "
                f"{difference:+.3f} on {accuracies[resource].samples} samples; that of the device counts"
            )
    return accuracies, tuple(notes)


class _CannotComputeError(Exception):
    """The device only measures."""


def _device_accuracy(
    device: Device, evaluator: DataEvaluator, execution: Execution, proto: onnx.ModelProto
) -> OnDevice | None:
    """The accuracy of a model on a device and on this machine; None where the device does not run it."""

    def compute(model: onnx.ModelProto, batches: Iterable[Arrays]) -> list[Arrays]:
        answers = outputs_on_device(device, execution, model, batches)
        if answers is None:
            raise _CannotComputeError
        return answers

    try:
        on_device, locally = evaluator.device_accuracy(proto, compute, MOST_BYTES)
    except _CannotComputeError:
        return None
    except NetadaptError as error:
        if error.code == "not-portable":
            return None
        raise
    return OnDevice(on_device.value, locally.value, on_device.samples)
