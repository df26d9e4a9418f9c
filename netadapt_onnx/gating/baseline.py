"""What models are compared with: a small committed JSON file, another model file, or a git revision."""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import msgspec

from netadapt_onnx.common.escape import escape_json
from netadapt_onnx.common.files import write_atomically
from netadapt_onnx.common.resources import amounts
from netadapt_onnx.errors import NetadaptError
from netadapt_onnx.gating.jobs import CountJob, LocateJob
from netadapt_onnx.gating.records import Facts, Interval, Layer, Timed
from netadapt_onnx.gating.revision import checked_out
from netadapt_onnx.gating.sandbox import Sandbox
from netadapt_onnx.gating.settings import Settings
from netadapt_onnx.profilers.checked_values import Count, Ms, Total

SCHEMA = 1
DEFAULT = "netadapt-baseline.json"


class RecordedLayer(msgspec.Struct, frozen=True, array_like=True):
    """A layer of a baseline."""

    name: str
    op: str
    params: Total
    macs: Total | None


class RecordedLatency(msgspec.Struct, frozen=True):
    """A latency and where it was measured; `name` is what the user calls that device."""

    median_ms: Ms
    ci95: tuple[Ms, Ms]
    sessions: Count
    name: str | None
    device: dict[str, object]


class Recorded(msgspec.Struct, frozen=True):
    """A model of a baseline. `latency` is keyed by the device's fingerprint, shortened."""

    sha256: str
    size_bytes: Total
    params: Total
    macs: Total | None
    memory_bytes: Total | None
    opset: dict[str, int]
    latency: dict[str, RecordedLatency]
    layers: tuple[RecordedLayer, ...]


class _File(msgspec.Struct, frozen=True):
    schema: int
    models: dict[str, Recorded]


@dataclass(frozen=True)
class Reference:
    """What one model is compared with. `path` is the other model where there is one, to be timed in turn."""

    resources: Mapping[str, float | None]
    layers: tuple[Layer, ...]
    path: Path | None = None
    latency: Mapping[str, RecordedLatency] = field(default_factory=dict)


def identity(device: Mapping[str, object]) -> str:
    """A fingerprint in twelve characters."""
    return hashlib.sha256(json.dumps(device, sort_keys=True).encode()).hexdigest()[:12]


def is_record(baseline: str) -> bool:
    """Whether `--baseline` names a JSON file."""
    return not baseline.startswith("git:") and not baseline.endswith(".onnx")


def key(model: Path, file: Path) -> str:
    """A model's key in a baseline: its path from the baseline's folder."""
    return Path(os.path.relpath(model.absolute(), file.absolute().parent)).as_posix()


def reference(model: Path, settings: Settings, sandbox: Sandbox, scratch: Path) -> Reference | None:
    """What `settings` compare a model with; None if it was not there. `scratch` is a folder for files of revisions.

    Raises NetadaptError: no baseline, one that cannot be read.
    """
    given = settings.baseline
    if given is None:
        raise NetadaptError(
            "there is no baseline to compare with",
            hint="make one with --update-baseline and commit it, or give --baseline FILE or git:REV",
            code="baseline",
        )
    if is_record(given):
        found = read(Path(given)).get(key(model, Path(given)))
        return None if found is None else _from_record(found)
    other: Path | None = Path(given)
    if given.startswith("git:"):
        folder = Path(tempfile.mkdtemp(dir=scratch))
        other = checked_out(given[4:], model, folder, lambda path: sandbox.ask(LocateJob(str(path)), list[str]))
    if other is None:
        return None
    try:
        facts = sandbox.ask(CountJob(str(other), dict(settings.shapes), settings.batch_size), Facts)
    except NetadaptError as error:
        message = error.message.replace(str(other), model.name)
        raise NetadaptError(f"the baseline {given}: {message}", hint=error.hint, code=error.code) from error
    return Reference(resources(facts), facts.layers, other)


def resources(facts: Facts | Recorded) -> dict[str, float | None]:
    """The counted resources by name."""
    return amounts(facts, ("size", "params", "macs", "memory"))


def read(file: Path) -> dict[str, Recorded]:
    """The models of a baseline file by key. Raises NetadaptError for what is none."""
    if not file.is_file():
        raise NetadaptError(
            f"--baseline {file}: no such file", hint="make it with --update-baseline", code="missing-file"
        )
    try:
        found = msgspec.json.decode(file.read_bytes(), type=_File)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise NetadaptError(
            f"{file} is not a baseline: {error}", hint="make it again with --update-baseline", code="baseline"
        ) from error
    if found.schema != SCHEMA:
        raise NetadaptError(
            f"{file} is a baseline of schema {found.schema}; this version reads {SCHEMA}",
            hint="make it again with --update-baseline",
            code="baseline",
        )
    return found.models


def record(facts: Facts, timed: Timed | None, name: str | None, earlier: Recorded | None) -> Recorded:
    """A model as a baseline keeps it. Latencies of other devices stay while the model is the same."""
    latency = dict(earlier.latency) if earlier is not None and earlier.sha256 == facts.sha256 else {}
    if timed is not None:
        found = timed.latency_ms
        latency[identity(timed.device)] = RecordedLatency(
            found.median, (found.low, found.high), timed.sessions, name, timed.device
        )
    return Recorded(
        facts.sha256,
        facts.size_bytes,
        facts.params,
        facts.macs,
        facts.memory_bytes,
        facts.opset,
        latency,
        tuple(RecordedLayer(layer.name, layer.op, layer.params, layer.macs) for layer in facts.layers),
    )


def write(file: Path, models: Mapping[str, Recorded]) -> None:
    """Write a baseline file: sorted, a layer a line, so that its changes read well in a review."""
    blocks = []
    for name in sorted(models):
        fields = msgspec.to_builtins(models[name])
        layers = ",\n".join(f"        {json.dumps(layer)}" for layer in fields.pop("layers"))
        lines = [f"      {json.dumps(k)}: {json.dumps(v, sort_keys=True)}" for k, v in fields.items()]
        lines.append(f'      "layers": [\n{layers}\n      ]' if layers else '      "layers": []')
        blocks.append(f"    {json.dumps(name)}: {{\n" + ",\n".join(lines) + "\n    }")
    body = ",\n".join(blocks)
    text = f'{{\n  "schema": {SCHEMA},\n  "models": {{\n{body}\n  }}\n}}\n'
    write_atomically(file, escape_json(text).encode())


def _from_record(found: Recorded) -> Reference:
    layers = tuple(Layer(layer.name, layer.op, layer.params, layer.macs) for layer in found.layers)
    return Reference(resources(found), layers, None, found.latency)


def interval(latency: RecordedLatency) -> Interval:
    """A recorded latency in ms."""
    return Interval(latency.median_ms, *latency.ci95)
