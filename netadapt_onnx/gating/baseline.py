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
from netadapt_onnx.common.missing_files import missing_file
from netadapt_onnx.common.resources import amounts
from netadapt_onnx.errors import NetadaptError
from netadapt_onnx.gating.jobs import CountJob
from netadapt_onnx.gating.records import Facts, Layer, TimingResult, Total
from netadapt_onnx.gating.revision import check_out, unusable
from netadapt_onnx.gating.sandbox import Sandbox
from netadapt_onnx.gating.settings import Settings
from netadapt_onnx.profilers.checked_values import Count, Ms

SCHEMA = 1
DEFAULT = "netadapt-baseline.json"
# Of a layer, a baseline has the name, the operator, params and macs.
LAYER_FIELDS = 4
AGAIN = "make it again with --update-baseline"


class BaselineLatency(msgspec.Struct, frozen=True):
    """A latency and where it was measured; `name` is what the user calls that device."""

    median_ms: Ms
    ci95: tuple[Ms, Ms]
    sessions: Count
    name: str | None
    device: dict[str, object]


class BaselineModel(msgspec.Struct, frozen=True):
    """A model in a baseline file. `latency` is keyed by the device's fingerprint, shortened."""

    sha256: str
    size_bytes: Total
    params: Total
    macs: Total | None
    memory_bytes: Total | None
    opset: dict[str, int]
    latency: dict[str, BaselineLatency]
    layers: tuple[Layer, ...]


class _File(msgspec.Struct, frozen=True):
    schema: int
    models: dict[str, BaselineModel]


@dataclass(frozen=True)
class Reference:
    """The numbers that one model is compared with.

    `path` is the other model where there is one, to be timed in turn; `latency` is keyed by the device's fingerprint.
    """

    resources: Mapping[str, float | None]
    layers: tuple[Layer, ...]
    path: Path | None = None
    latency: Mapping[str, BaselineLatency] = field(default_factory=dict)


def identity(device: Mapping[str, object]) -> str:
    """Shorten a fingerprint to twelve characters."""
    return hashlib.sha256(json.dumps(device, sort_keys=True).encode()).hexdigest()[:12]


def is_record(baseline: str) -> bool:
    """Whether `--baseline` names a JSON file."""
    return not baseline.startswith("git:") and not baseline.endswith(".onnx")


def key(model: Path, file: Path) -> str:
    """A model's key in a baseline: its path from the baseline's folder."""
    return Path(os.path.relpath(model.absolute(), file.absolute().parent)).as_posix()


def reference(model: Path, settings: Settings, sandbox: Sandbox, scratch: Path) -> Reference | None:
    """Find what a model is compared with.

    Args:
        model: the model's file.
        settings: they name the baseline.
        sandbox: it reads the other model, if the baseline is one.
        scratch: a folder for files of revisions.

    Returns:
        The reference; None if the baseline does not have the model.

    Raises:
        NetadaptError: there is no baseline, or it cannot be read.
    """
    baseline = settings.baseline
    if baseline is None:
        raise unusable(
            "there is no baseline to compare with",
            "make one with --update-baseline and commit it, or give --baseline FILE or git:REV",
        )
    if is_record(baseline):
        recorded = read(Path(baseline)).get(key(model, Path(baseline)))
        return None if recorded is None else Reference(amounts(recorded), recorded.layers, None, recorded.latency)
    other: Path | None = Path(baseline)
    if baseline.startswith("git:"):
        folder = Path(tempfile.mkdtemp(dir=scratch))
        other = check_out(baseline[4:], model, folder, sandbox)
    if other is None:
        return None
    try:
        facts = sandbox.ask(CountJob(str(other), dict(settings.shapes), settings.batch_size), Facts)
    except NetadaptError as error:
        message = error.message.replace(str(other), baseline)  # of a revision, it is in a folder that will be gone
        raise NetadaptError(f"the baseline {message}", hint=error.hint, code=error.code) from error
    return Reference(amounts(facts), facts.layers, other)


def read(file: Path) -> dict[str, BaselineModel]:
    """Read the models of a baseline file by key. Raises NetadaptError for a file that is none."""
    if not file.is_file():
        raise missing_file(file, flag="--baseline", otherwise="make it with --update-baseline")
    try:
        content = msgspec.json.decode(file.read_bytes(), type=_File)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise unusable(f"{file} is not a baseline: {error}", AGAIN) from error
    if content.schema != SCHEMA:
        raise unusable(f"{file} is a baseline of schema {content.schema}; this version reads {SCHEMA}", AGAIN)
    return content.models


def record(facts: Facts, timing: TimingResult | None, name: str | None, earlier: BaselineModel | None) -> BaselineModel:
    """Make a model's entry of a baseline. Latencies of other devices stay while the model is the same."""
    latency = dict(earlier.latency) if earlier is not None and earlier.sha256 == facts.sha256 else {}
    if timing is not None:
        latency_ms = timing.latency_ms
        latency[identity(timing.device)] = BaselineLatency(
            latency_ms.median, (latency_ms.low, latency_ms.high), timing.sessions, name, timing.device
        )
    return BaselineModel(
        facts.sha256,
        facts.size_bytes,
        facts.params,
        facts.macs,
        facts.memory_bytes,
        facts.opset,
        latency,
        facts.layers,
    )


def write(file: Path, models: Mapping[str, BaselineModel]) -> None:
    """Write a baseline file: sorted, a layer a line, so that its changes read well in a review."""
    blocks = []
    for name in sorted(models):
        fields = msgspec.to_builtins(models[name])
        layers = ",\n".join(f"        {json.dumps(layer[:LAYER_FIELDS])}" for layer in fields.pop("layers"))
        lines = [f"      {json.dumps(k)}: {json.dumps(v, sort_keys=True)}" for k, v in fields.items()]
        lines.append(f'      "layers": [\n{layers}\n      ]' if layers else '      "layers": []')
        blocks.append(f"    {json.dumps(name)}: {{\n" + ",\n".join(lines) + "\n    }")
    body = ",\n".join(blocks)
    text = f'{{\n  "schema": {SCHEMA},\n  "models": {{\n{body}\n  }}\n}}\n'
    write_atomically(file, escape_json(text).encode())
