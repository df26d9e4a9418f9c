"""What a device is asked, and what it answers: models as files, a manifest that says how to measure, records of JSON.

`agent.py` does the asking's other side. Names of files are our own: nothing of a model's name reaches a device.
"""

from __future__ import annotations

import hashlib
import io
import tempfile
import uuid
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

import msgspec
import numpy as np
import onnx

from netadapt_onnx.errors import NetadaptError
from netadapt_onnx.light import file_bytes, write
from netadapt_onnx.model import data_file, save
from netadapt_onnx.profilers.portable import portable
from netadapt_onnx.profilers.session import Execution, execution_record
from netadapt_onnx.runtime import PROTOBUF_LIMIT, Arrays

SCHEMA = 1
# The number of the model that all others of a job are measured beside.
REFERENCE = -1

Environment = dict[str, Any]
Until = Literal["interval", "each", "ratio", "undisturbed"]


class Job(msgspec.Struct, frozen=True):
    """Models that are measured together, in rounds, each in `sessions` fresh sessions, beside the reference if any.

    `profiled`: each also in a session with the profiler on. `needed`: measured also if its share of the manifest's time
    is used up, in the least rounds. `until`, `precision` and `rounds` (least, most) say when it
    is enough (`agent.py`); `seconds` caps it, None: its share of the manifest's. `anchors`: as many more sessions of
    the reference per session of the others.
    """

    models: tuple[int, ...]
    reference: int | None
    profiled: bool
    sessions: int
    until: Until
    precision: float
    rounds: tuple[int, int | None]
    seconds: float | None
    seed: int = 0
    shard: int | None = None
    anchors: int = 0
    needed: bool = False


class ModelFile(msgspec.Struct, frozen=True):
    """A model in the folder of a manifest."""

    file: str
    sha256: str


class Manifest(msgspec.Struct, frozen=True):
    """All that a device needs to know. `models` by number as text; `about` is for us and comes back as it went."""

    schema: int
    execution: dict[str, Any]
    inputs: str
    models: dict[str, ModelFile]
    jobs: tuple[Job, ...]
    seconds: float = 0.0
    about: dict[str, Any] = {}


class Described(msgspec.Struct, frozen=True, tag_field="record", tag="manifest"):
    """The first record of results."""

    manifest: Manifest


class Found(msgspec.Struct, frozen=True, tag_field="record", tag="environment"):
    """Where the records that follow were measured."""

    environment: Environment


class Measured(msgspec.Struct, frozen=True, tag_field="record", tag="measured"):
    """One model: times in ms per fresh session, undisturbed (`ms`) and median, the reference's of the same rounds.

    Of profiled jobs also the optimised graph (zlib, base64), the microseconds of its nodes and the sum of the
    reference's. `interval`: width of the 95% interval of a session's median, relative to it; the widest session's.
    `throttled`: the device was slowed down by its heat meanwhile. `others`: processors, of `cores`, that other
    processes kept busy; None where the system does not tell.
    """

    job: int
    model: int
    rounds: int
    seconds: float
    ms: list[float]
    median_ms: list[float]
    reference_ms: list[float] = []
    reference_median_ms: list[float] = []
    reference_us: float = 0.0
    optimised: str = ""
    us: dict[str, float] = {}
    placement: dict[str, int] = {}
    interval: float = 0.0
    temperature_c: tuple[float | None, float | None] = (None, None)
    throttled: bool = False
    others: float | None = None
    cores: int | None = None


class Failed(msgspec.Struct, frozen=True, tag_field="record", tag="failed"):
    """A model that the device could not run, and onnxruntime's reason."""

    job: int
    model: int
    error: str


class End(msgspec.Struct, frozen=True, tag_field="record", tag="end"):
    """Everything was measured, or time was up."""

    stopped: str


Answer = Described | Found | Measured | Failed | End
_DECODER = msgspec.json.Decoder(Answer)


def decoded(line: bytes) -> Answer:
    """One record. Raises msgspec.DecodeError."""
    record: Answer = _DECODER.decode(line)
    return record


class Device(Protocol):
    """A place where models are measured. It has one folder; files in it go by the names that `push` gave them."""

    name: str
    oldest: bool

    def describe(self) -> Environment:
        """What the agent's `environment` says there; of a device without Python what can be read from outside."""

    def push(self, files: Sequence[Path]) -> None:
        """Copy files into the device's folder, by their last names; those that are there already may be left out."""

    def run(self, manifest: str, results: str) -> Iterable[Answer]:
        """Do the jobs of a pushed manifest; yields the records of `results` on the device, as they appear."""

    def pull(self, name: str) -> bytes:
        """A file of the device's folder."""

    def remove(self, names: Sequence[str]) -> None:
        """Forget files of the device's folder."""

    def close(self) -> None:
        """Leave the device as it was found."""


@dataclass(frozen=True)
class Written:
    """An order as files: its manifest, what the next one will want too, and what only this one needs."""

    manifest: Path
    lasting: list[Path]
    passing: list[Path]


@dataclass(frozen=True)
class Order:
    """Models to be measured together, by number, with the inputs that all of them take; each as it is deployed."""

    models: Mapping[int, onnx.ModelProto]
    inputs: Arrays
    execution: Execution
    jobs: tuple[Job, ...]

    def write(self, folder: Path, *, oldest: bool) -> Written:
        """Write manifest, inputs and models into `folder`.

        `oldest`: as onnxruntime 1.16 reads them. Raises NetadaptError naming what that cannot express.
        """
        models: dict[str, ModelFile] = {}
        files: dict[int, list[Path]] = {}
        for number, proto in self.models.items():
            deployed = self.execution.deploy.apply(proto)
            models[str(number)], files[number] = write_model(deployed, folder, oldest=oldest)
        inputs = write_inputs(self.inputs, folder)
        manifest = Manifest(SCHEMA, execution_record(self.execution), inputs.name, models, self.jobs)
        data = msgspec.json.encode(manifest)
        path = folder / f"{hashlib.sha256(data).hexdigest()[:16]}.json"
        path.write_bytes(data)
        lasting = [*files.pop(REFERENCE, []), inputs]
        passing = [path for paths in files.values() for path in paths if path not in lasting]
        return Written(path, lasting, list(dict.fromkeys(passing)))


def write_model(proto: onnx.ModelProto, folder: Path, *, oldest: bool) -> tuple[ModelFile, list[Path]]:
    """Write a file named after its content, and beyond protobuf's limit its weights beside it."""
    if oldest:
        proto = portable(proto)
    path = folder / f"{uuid.uuid4().hex[:16]}.onnx"
    if file_bytes(proto) > PROTOBUF_LIMIT:
        save(proto, path)
        return ModelFile(path.name, _sha256(path)), [path, data_file(path)]
    with path.open("wb") as file:
        write(proto, file)
    digest = _sha256(path)
    named = path.rename(folder / f"{digest[:16]}.onnx")
    return ModelFile(named.name, digest), [named]


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_inputs(inputs: Arrays, folder: Path) -> Path:
    """Write inputs as numpy reads them, text as text."""
    buffer = io.BytesIO()
    texts = {name: value.astype("U") if value.dtype == object else value for name, value in inputs.items()}
    np.savez(buffer, **texts)  # type: ignore[arg-type]
    digest = hashlib.sha256(b"".join(name.encode() + value.tobytes() for name, value in texts.items()))
    path = folder / f"{digest.hexdigest()[:16]}.npz"
    path.write_bytes(buffer.getvalue())
    return path


def measure_on(device: Device, order: Order) -> dict[int, Measured]:
    """Have a device measure an order of one job; records by model number.

    Raises NetadaptError: a provider or a model that the device cannot run, nodes that another provider ran, a device
    that is lost.
    """
    order.execution.require(device.describe())
    if order.execution.library is not None and device.oldest:
        raise NetadaptError("--ep-library is for this machine", hint="leave --device away", code="usage")
    found: dict[int, Measured] = {}
    with tempfile.TemporaryDirectory(prefix="netadapt-") as folder:
        files = order.write(Path(folder), oldest=device.oldest)
        device.push([*files.lasting, *files.passing, files.manifest])
        results = files.manifest.with_suffix(".jsonl").name
        for record in device.run(files.manifest.name, results):
            if isinstance(record, Failed):
                message = f"{device.name}: onnxruntime cannot run the model: {record.error}"
                raise NetadaptError(message, code="unrunnable")
            if isinstance(record, Measured):
                order.execution.require_placed(record.placement)
                found[record.model] = record
        device.remove([*(path.name for path in files.passing), files.manifest.name, results])
    missing = [m for job in order.jobs for m in job.models if m not in found]
    if missing:
        raise NetadaptError(f"{device.name}: {len(missing)} models came back without a time", code="device")
    return found
