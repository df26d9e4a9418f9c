"""The rules of a gate: the entries of the configuration, with the flags over them."""

from __future__ import annotations

import glob
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import msgspec

from netadapt_onnx.common import config
from netadapt_onnx.data.source import DataSource, TaskName
from netadapt_onnx.errors import NetadaptError
from netadapt_onnx.gating.limits import Limit, parse_limits

Shapes = Mapping[str, tuple[int, ...]]


class Entry(msgspec.Struct, frozen=True, forbid_unknown_fields=True, rename="kebab"):
    """An entry `[[tool.netadapt-onnx.gate]]` as it is written."""

    model: str | tuple[str, ...]
    max: dict[str, str | float] = {}
    max_increase: dict[str, str | float] = {}
    min: dict[str, str | float] = {}
    data: str | None = None
    task: TaskName | None = None
    resize: int | tuple[int, ...] | None = None
    crop: int | tuple[int, ...] | None = None
    mean: float | tuple[float, ...] | None = None
    std: float | tuple[float, ...] | None = None
    split: Literal["val", "test"] = "val"
    baseline: str | None = None
    allow_new: bool = False
    device: str | None = None
    threads: int = 1
    ep: str = "cpu"
    shapes: dict[str, str] = {}
    batch_size: int = 1
    message: str = ""


class Device(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """An entry `[tool.netadapt-onnx.devices.NAME]`: a latency table that was built there, or where to reach it."""

    table: str | None = None
    address: str | None = None


@dataclass(frozen=True)
class TargetDevice:
    """The device whose latency counts: predicted by `table`, measured at `address`, or on a machine of that name."""

    name: str
    table: Path | None = None
    address: str | None = None


@dataclass(frozen=True)
class Settings:
    """How a model is measured and what it is compared with. Paths are absolute; `baseline` may be `git:REV`."""

    data: DataSource | None = None
    split: Literal["val", "test"] = "val"
    baseline: str | None = None
    allow_new: bool = False
    device: TargetDevice | None = None
    threads: int = 1
    ep: str = "cpu"
    shapes: Shapes = field(default_factory=dict)
    batch_size: int = 1


@dataclass(frozen=True)
class Rule:
    """Limits for the models that match `patterns`; `message` is for users who exceed them."""

    patterns: tuple[str, ...]
    limits: tuple[Limit, ...]
    settings: Settings
    message: str = ""


def read_rules(file: Path | None, default_baseline: str | None) -> tuple[Rule, ...]:
    """Read the rules of a configuration file; there are none if there is no file."""
    entries = None if file is None else config.read(file, "gate", tuple[Entry, ...])
    if entries is None:
        return ()
    return tuple(_rule(entry, entries.file, default_baseline) for entry in entries.value)


def target_device(name: str, file: Path | None) -> TargetDevice | None:
    """Find the device of that name: an address, one that the configuration names, or a machine; None for this one."""
    if name == "local":
        return None
    if "://" in name:
        return TargetDevice(name, address=name)
    section = None if file is None else config.read(file, "devices", dict[str, Device])
    if section is None or name not in section.value:
        return TargetDevice(name)
    device = section.value[name]
    if (device.table is None) == (device.address is None):
        raise NetadaptError(f"{file}: device '{name}' needs a table or an address", hint="give one", code="config")
    table = None if device.table is None else section.folder.resolve() / device.table
    return TargetDevice(name, table, device.address)


def _rule(entry: Entry, file: Path, default_baseline: str | None) -> Rule:
    folder = file.resolve().parent
    patterns = (entry.model,) if isinstance(entry.model, str) else entry.model
    limits = parse_limits(
        {"max": _with_bytes_as_texts(entry.max), "max-increase": entry.max_increase, "min": entry.min}
    )
    if not limits:
        raise NetadaptError(
            f"{file}: the gate for {', '.join(patterns)} limits nothing",
            hint="give it max, max-increase or min",
            code="config",
        )
    baseline = default_baseline if entry.baseline is None else entry.baseline
    if baseline is not None and not baseline.startswith("git:"):
        baseline = str(folder / baseline)
    settings = Settings(
        None if entry.data is None else _source(entry, folder / entry.data),
        entry.split,
        baseline,
        entry.allow_new,
        None if entry.device is None else target_device(entry.device, file),
        entry.threads,
        entry.ep,
        {name: _shape(name, text, file) for name, text in entry.shapes.items()},
        entry.batch_size,
    )
    return Rule(tuple(str(folder / pattern) for pattern in patterns), limits, settings, entry.message)


def _with_bytes_as_texts(limits: Mapping[str, str | float]) -> dict[str, str | float]:
    """Limits in which a number of bytes is written as an option would be, so that a few are asked for their unit."""
    return {
        name: f"{value:.15g}" if name in ("size", "memory") and not isinstance(value, str) else value
        for name, value in limits.items()
    }


def _source(entry: Entry, path: Path) -> DataSource:
    """The data source of an entry; a number alone stands for a list of one."""
    options = [entry.resize, entry.crop, entry.mean, entry.std]
    listed: Any = [(value,) if isinstance(value, int | float) else value for value in options]
    return DataSource(str(path), entry.task, *listed)


def _shape(name: str, text: str, file: Path) -> tuple[int, ...]:
    try:
        return tuple(int(d) for d in text.split("x"))
    except ValueError:
        raise NetadaptError(
            f"{file}: shape '{text}' of input '{name}'", hint="write it like 1x3x224x224", code="config"
        ) from None


def override(rule: Rule, limits: Sequence[Limit], changes: Mapping[str, Any]) -> Rule:
    """Replace a rule's settings by `changes`, and its limits by those of `limits` on the same numbers."""
    replaced = {(limit.kind, limit.resource) for limit in limits}
    kept = tuple(limit for limit in rule.limits if (limit.kind, limit.resource) not in replaced)
    return replace(rule, limits=(*kept, *limits), settings=replace(rule.settings, **changes))


def expand(pattern: str) -> tuple[Path, ...]:
    """List the files that a path or a pattern names, in order; a folder stands for the models in it, however deep."""
    if Path(pattern).is_dir():
        return tuple(sorted(_models_in(Path(pattern))))
    # A file may be called a[1].onnx.
    names = [pattern] if Path(pattern).is_file() else sorted(glob.glob(pattern, recursive=True))  # noqa: PTH207 -- absolute patterns too
    return tuple(Path(name) for name in names if Path(name).is_file())


def relative(file: Path) -> Path:
    """A path as a user in this folder would write it."""
    try:
        return file.absolute().relative_to(Path.cwd())
    except ValueError:
        return file


def _models_in(folder: Path) -> Iterator[Path]:
    """The models in a folder: neither hidden ones nor what links lead to."""
    for place, folders, files in os.walk(folder):
        folders[:] = [name for name in folders if not name.startswith(".")]
        yield from (Path(place, name) for name in files if name.endswith(".onnx") and not name.startswith("."))
