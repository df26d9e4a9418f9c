"""Where a search measures: one device, or several by name, each with the table that predicts for it."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
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
Log = Callable[[str], None]


@dataclass(frozen=True)
class TargetDevice:
    """A device at work. `resource`: `latency`, or `latency@NAME`; `device` None: only a bundle reaches it."""

    resource: str
    device: Device | None
    environment: Environment | None
    table: Path | None


def named_devices(given: Devices) -> dict[str, str | Device]:
    """Devices by resource. Texts may be `NAME=DEVICE`. Raises NetadaptError for a name that is given twice."""
    if isinstance(given, Mapping):
        return {_resource(name): device for name, device in given.items()}
    if isinstance(given, str) or not isinstance(given, Sequence):
        given = [given]  # type: ignore[list-item]
    found: dict[str, str | Device] = {}
    for one in given:
        match = re.fullmatch(r"([\w.-]+)=(.+)", one) if isinstance(one, str) else None
        name, device = (match[1], match[2]) if match else ("", one)
        if _resource(name) in found:
            raise NetadaptError(f"--device is given twice for {name or 'all'}", hint="name them", code="usage")
        found[_resource(name)] = device
    return found or {LATENCY: LOCAL}


def named_tables(given: Tables, devices: Mapping[str, str | Device]) -> dict[str, Path]:
    """Tables by resource. Texts may be `NAME=FILE`, NAME being a device's."""
    if given is None:
        return {}
    if isinstance(given, Mapping):
        return {_resource(name): Path(file) for name, file in given.items()}
    found: dict[str, Path] = {}
    for one in [given] if isinstance(given, str | os.PathLike) else given:
        name, equals, file = os.fspath(one).partition("=")
        if equals and _resource(name) in devices:
            found[_resource(name)] = Path(file)
        else:
            found[LATENCY] = Path(one)
    return found


def _resource(name: str) -> str:
    return f"{LATENCY}@{name}" if name else LATENCY


@contextmanager
def opened_places(
    devices: Mapping[str, str | Device],
    tables: Mapping[str, Path],
    budgets: Sequence[Budget],
    execution: Execution,
    *,
    purpose: Path,
    python: str = "python3",
    keep: bool = False,
    perf_test: Path | None = None,
    log: Log | None = None,
) -> Iterator[tuple[TargetDevice, ...]]:
    """The devices that budgets or tables ask for, all of them reached, and left as they were found.

    Raises NetadaptError for a budget whose device is not named, and a device that cannot be reached or lacks the
    execution provider.
    """
    asked = {budget.resource for budget in budgets if budget.resource.startswith(LATENCY)}
    unknown = sorted(asked - {LATENCY} - devices.keys())
    if unknown:
        name = unknown[0].partition("@")[2]
        raise NetadaptError(
            f"a budget for {unknown[0]}, but no device is called '{name}'",
            hint=f"--device {name}=ssh://HOST",
            code="usage",
        )
    idle = sorted(devices.keys() - {LATENCY} - asked)
    if idle:
        raise NetadaptError(f"no budget for {idle[0]}", hint=f"--budget {idle[0]}=0.7x", code="usage")
    if LATENCY in asked and LATENCY not in devices:
        devices = {LATENCY: LOCAL, **devices}
    if devices.get(LATENCY) == LOCAL:
        execution.require(agent.environment())
    with ExitStack() as stack:
        places = []
        for resource, device in devices.items():
            if resource not in asked and resource not in tables:
                continue
            if device == BUNDLE:
                if resource not in tables:
                    raise NetadaptError("--device bundle needs the --table of its results", code="usage")
                places.append(TargetDevice(resource, None, None, tables[resource]))
                continue
            mark = f"{purpose}@{resource}"
            there = stack.enter_context(
                open_device(device, purpose=mark, python=python, keep=keep, perf_test=perf_test, log=log)
            )
            environment = there.describe()
            execution.require(environment)
            places.append(TargetDevice(resource, there, environment, tables.get(resource)))
        yield tuple(places)


def about(places: Sequence[TargetDevice], execution: Execution) -> dict[str, object]:
    """The devices of a run, as it records them."""
    return {
        place.resource: None if place.environment is None else fingerprint(execution, place.environment)
        for place in places
    }
