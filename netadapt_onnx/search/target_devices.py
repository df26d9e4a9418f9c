"""The devices that a search measures on: one, or several by name, each with the table that predicts for it."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from netadapt_onnx.common.budget import Budget
from netadapt_onnx.common.resources import LATENCY
from netadapt_onnx.errors import NetadaptError
from netadapt_onnx.profilers import agent
from netadapt_onnx.profilers.device import Device
from netadapt_onnx.profilers.devices.opening import BUNDLE, LOCAL, open_device
from netadapt_onnx.profilers.execution import Execution, fingerprint
from netadapt_onnx.profilers.records import Environment

Devices = str | Device | Sequence[str] | Mapping[str, str | Device]
Tables = str | os.PathLike[str] | Sequence[str | os.PathLike[str]] | Mapping[str, str | os.PathLike[str]] | None


@dataclass(frozen=True)
class TargetDevice:
    """A device that a search measures on.

    Attributes:
        resource: `latency`, or `latency@NAME` for a named device.
        device: The device; None: only a bundle reaches it.
        environment: What the device says of itself.
        table: The user's latency table of it.
    """

    resource: str
    device: Device | None
    environment: Environment | None
    table: Path | None


def named_devices(devices: Devices) -> dict[str, str | Device]:
    """The user's devices by resource; texts may be `NAME=DEVICE`.

    Raises:
        NetadaptError: A name stands for two devices.
    """
    if isinstance(devices, Mapping):
        return {_resource(name): device for name, device in devices.items()}
    if isinstance(devices, str) or not isinstance(devices, Sequence):
        devices = [devices]  # type: ignore[list-item]
    by_resource: dict[str, str | Device] = {}
    for one in devices:
        match = re.fullmatch(r"([\w.-]+)=(.+)", one) if isinstance(one, str) else None
        name, device = (match[1], match[2]) if match else ("", one)
        if _resource(name) in by_resource:
            raise NetadaptError(f"--device is given twice for {name or 'all'}", hint="name them", code="usage")
        by_resource[_resource(name)] = device
    return by_resource or {LATENCY: LOCAL}


def device_texts(devices: Devices) -> tuple[str, ...]:
    """The user's devices as texts: `NAME=DEVICE`, or the device alone where it has no name."""
    texts = []
    for resource, device in named_devices(devices).items():
        name, text = resource.partition("@")[2], device if isinstance(device, str) else device.name
        texts.append(f"{name}={text}" if name else text)
    return tuple(texts)


def named_tables(tables: Tables, devices: Mapping[str, str | Device]) -> dict[str, Path]:
    """The user's tables by resource; texts may be `NAME=FILE`, NAME being a device's."""
    if tables is None:
        return {}
    if isinstance(tables, Mapping):
        return {_resource(name): Path(file) for name, file in tables.items()}
    by_resource: dict[str, Path] = {}
    for one in [tables] if isinstance(tables, str | os.PathLike) else tables:
        name, equals, file = os.fspath(one).partition("=")
        if equals and _resource(name) in devices:
            by_resource[_resource(name)] = Path(file)
        else:
            by_resource[LATENCY] = Path(one)
    return by_resource


def _resource(name: str) -> str:
    return f"{LATENCY}@{name}" if name else LATENCY


@contextmanager
def open_target_devices(
    devices: Mapping[str, str | Device],
    tables: Mapping[str, Path],
    budgets: Sequence[Budget],
    execution: Execution,
    purpose: Path,
    reach: Callable[..., AbstractContextManager[Device]] = open_device,
) -> Iterator[tuple[TargetDevice, ...]]:
    """The devices that budgets or tables are for, all of them reached, until the `with` block ends.

    Args:
        devices: The user's devices, by resource.
        tables: The user's tables, by resource.
        budgets: The budgets of the run.
        execution: How models run on the devices.
        purpose: What the devices are used for: part of the name of the folder on a device.
        reach: Reaches a device for a purpose.

    Raises:
        NetadaptError: A budget's device is not named, or a device cannot be reached or lacks the execution provider.
    """
    resources = _budgeted_resources(devices, budgets)
    if LATENCY in resources and LATENCY not in devices:
        devices = {LATENCY: LOCAL, **devices}
    if devices.get(LATENCY) == LOCAL:
        execution.require(agent.environment())
    with ExitStack() as stack:
        targets = []
        for resource, device in devices.items():
            table = tables.get(resource)
            if resource not in resources and table is None:
                continue
            if device == BUNDLE:
                if table is None:
                    raise NetadaptError(
                        "--device bundle needs the --table that `profile import` made of its results",
                        code="usage",
                    )
                targets.append(TargetDevice(resource, None, None, table))
                continue
            opened = stack.enter_context(reach(device, purpose=f"{purpose}@{resource}"))
            environment = opened.describe()
            execution.require(environment)
            targets.append(TargetDevice(resource, opened, environment, table))
        yield tuple(targets)


def _budgeted_resources(devices: Mapping[str, str | Device], budgets: Sequence[Budget]) -> set[str]:
    """The latencies that have a budget. Raises NetadaptError unless devices and budgets go together."""
    resources = {budget.resource for budget in budgets if budget.resource.startswith(LATENCY)}
    unnamed = sorted(resources - {LATENCY} - devices.keys())
    if unnamed:
        name = unnamed[0].partition("@")[2]
        raise NetadaptError(
            f"a budget for {unnamed[0]}, but no device is called '{name}'",
            hint=f"--device {name}=ssh://HOST",
            code="usage",
        )
    idle = sorted(devices.keys() - {LATENCY} - resources)
    if idle:
        raise NetadaptError(f"no budget for {idle[0]}", hint=f"--budget {idle[0]}=0.7x", code="usage")
    return resources


def device_records(targets: Sequence[TargetDevice], execution: Execution) -> dict[str, object]:
    """The fingerprint of every device, as a run records it; None for one that only a bundle reaches."""
    return {
        target.resource: None if target.environment is None else fingerprint(execution, target.environment)
        for target in targets
    }
