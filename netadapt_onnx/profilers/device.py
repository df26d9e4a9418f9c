"""What a device is asked, and what it answers: models as files, a manifest that says how to measure, records of JSON.

`agent.py` does the asking's other side. Names of files are our own: nothing of a model's name reaches a device.
"""

from __future__ import annotations

import hashlib
import io
import tempfile
import uuid
from collections.abc import Container, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, Protocol

import msgspec
import numpy as np
import onnx

from netadapt_onnx.common.escape import escape
from netadapt_onnx.common.files import digest
from netadapt_onnx.errors import NetadaptError
from netadapt_onnx.graph.model import data_file, save
from netadapt_onnx.graph.runtime import PROTOBUF_LIMIT, Arrays
from netadapt_onnx.graph.weightless import file_bytes, write
from netadapt_onnx.profilers import agent
from netadapt_onnx.profilers.checked_values import (
    Celsius,
    Count,
    ModelNumber,
    Ms,
    Number,
    Processors,
    Seconds,
    Sessions,
    Text,
    Us,
    Width,
    checked_environment,
)
from netadapt_onnx.profilers.execution import Execution, execution_record
from netadapt_onnx.profilers.older_runtimes import portable
from netadapt_onnx.profilers.packing import unpacked_graph

SCHEMA = agent.SCHEMA
# The code of the error that a device cannot be reached any more.
LOST = "device-lost"
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

    models: Annotated[tuple[ModelNumber, ...], msgspec.Meta(min_length=1)]
    reference: int | None
    profiled: bool
    sessions: Count
    until: Until
    precision: float
    rounds: tuple[int, int | None]
    seconds: float | None
    seed: int = 0
    shard: int | None = None
    anchors: Number = 0
    needed: bool = False

    def contradiction(self, record: Measured | Failed) -> str | None:
        """What a record says that an answer to this job cannot, beginning with the field; None if nothing."""
        if record.model not in self.models:
            return f"model: {record.model} was not asked for"
        if isinstance(record, Failed):
            return None
        sessions, beside = len(record.ms), len(record.reference_ms)
        if sessions > self.sessions:
            return f"ms: {sessions} sessions, and {self.sessions} were asked for"
        if beside not in ((0,) if self.reference is None else (sessions, sessions * (1 + self.anchors))):
            return f"reference_ms: {beside} sessions beside {sessions} of the model"
        if self.profiled and not (record.optimised and (self.reference is None or record.reference_us)):
            return "optimised, reference_us: the times of kernels are missing"
        if sum(record.median_ms) > 1100 * (record.seconds + 0.001) * len(self.models):
            return f"seconds: {record.seconds:g}, too few for a sum of {sum(record.median_ms):g} in median_ms"
        return None


class ModelFile(msgspec.Struct, frozen=True):
    """A model in the folder of a manifest."""

    file: str
    sha256: str


class Manifest(msgspec.Struct, frozen=True):
    """All that a device needs to know. `models` by number as text; `about` is for us and comes back as it went.

    `answers`: models whose outputs are wanted, for `inputs` of several batches each.
    """

    schema: int
    execution: dict[str, Any]
    inputs: str
    models: dict[str, ModelFile]
    jobs: tuple[Job, ...]
    seconds: float = 0.0
    about: dict[str, Any] = {}
    answers: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        """Raises ValueError for a manifest of another format."""
        if self.schema != SCHEMA:
            raise ValueError(f"schema: format {self.schema}, and this version reads {SCHEMA}")


class Described(msgspec.Struct, frozen=True, tag_field="record", tag="manifest"):
    """The first record of results."""

    manifest: Manifest


class Found(msgspec.Struct, frozen=True, tag_field="record", tag="environment"):
    """Where the records that follow were measured."""

    environment: Environment

    def __post_init__(self) -> None:
        """Raises ValueError if the environment lacks what a fingerprint needs."""
        msgspec.structs.force_setattr(self, "environment", checked_environment(self.environment))


class Measured(msgspec.Struct, frozen=True, tag_field="record", tag="measured"):
    """One model: times in ms per fresh session, undisturbed (`ms`) and median, the reference's of the same rounds.

    Of profiled jobs also the optimised graph (zlib, base64), the microseconds of its nodes and the sum of the
    reference's. `interval`: width of the 95% interval of a session's median, relative to it; the widest session's.
    `throttled`: the device was slowed down by its heat meanwhile. `others`: processors, of `cores`, that other
    processes kept busy; None where the system does not tell.
    """

    job: Number
    model: ModelNumber
    rounds: Count
    seconds: Seconds
    ms: Sessions
    median_ms: Sessions
    reference_ms: list[Ms] = []
    reference_median_ms: list[Ms] = []
    reference_us: Us = 0.0
    optimised: str = ""
    us: dict[str, Us] = {}
    placement: dict[Text, Number] = {}
    interval: Width = 0.0
    temperature_c: tuple[Celsius | None, Celsius | None] = (None, None)
    throttled: bool = False
    others: Processors | None = None
    cores: Count | None = None

    def __post_init__(self) -> None:
        """Raises ValueError, naming the field, where fields contradict each other or hold no graph."""
        for one, other in (("ms", "median_ms"), ("reference_ms", "reference_median_ms")):
            fastest, middle = getattr(self, one), getattr(self, other)
            if len(fastest) != len(middle):
                raise ValueError(f"{other}: {len(middle)} sessions, and {len(fastest)} in {one}")
            if any(fast > 1.001 * median + 1e-5 for fast, median in zip(fastest, middle, strict=True)):
                raise ValueError(f"{other}: less than in {one}, the fastest runs")
        if self.optimised:
            try:
                unpacked_graph(self.optimised)
            except ValueError as error:
                raise ValueError(f"optimised: {error}") from error


class Failed(msgspec.Struct, frozen=True, tag_field="record", tag="failed"):
    """A model that the device could not run, and onnxruntime's reason."""

    job: Number
    model: ModelNumber
    error: Text

    def __post_init__(self) -> None:
        """The text may hold names of a model's nodes."""
        msgspec.structs.force_setattr(self, "error", escape(self.error))


class Answered(msgspec.Struct, frozen=True, tag_field="record", tag="answered"):
    """What a model computes there: a file of arrays, in the order of the names of its outputs."""

    model: int
    file: str
    names: list[str]


class End(msgspec.Struct, frozen=True, tag_field="record", tag="end"):
    """Everything was measured, or time was up."""

    stopped: Text

    def __post_init__(self) -> None:
        """The text is shown."""
        msgspec.structs.force_setattr(self, "stopped", escape(self.stopped))


Answer = Described | Found | Measured | Failed | Answered | End
_DECODER = msgspec.json.Decoder(Answer)


def contradiction(record: Measured | Failed, jobs: Sequence[Job], earlier: Container[tuple[int, int]]) -> str | None:
    """What a record says that an answer to these jobs cannot, beginning with the field; None if nothing.

    `earlier`: jobs and models that have a record.
    """
    if record.job >= len(jobs):
        return f"job: {record.job} was not asked for"
    if (record.job, record.model) in earlier:
        return f"model: {record.model} of job {record.job} has a record already"
    return jobs[record.job].contradiction(record)


def decoded(line: bytes, where: str, hint: str = "") -> Answer:
    """One record. Raises NetadaptError, naming `where` it stands and the field, for what is none or cannot be true."""
    try:
        record: Answer = _DECODER.decode(line)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise NetadaptError(f"{where}: {error}", hint=hint, code="results") from error
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
        return ModelFile(path.name, digest(path)), [path, data_file(path)]
    with path.open("wb") as file:
        write(proto, file)
    sha256 = digest(path)
    named = path.rename(folder / f"{sha256[:16]}.onnx")
    return ModelFile(named.name, sha256), [named]


def write_inputs(inputs: Arrays, folder: Path) -> Path:
    """Write inputs as numpy reads them, text as text."""
    buffer = io.BytesIO()
    texts = {name: value.astype("U") if value.dtype == object else value for name, value in inputs.items()}
    np.savez(buffer, **texts)  # type: ignore[arg-type]
    content = hashlib.sha256(b"".join(name.encode() + value.tobytes() for name, value in texts.items()))
    path = folder / f"{content.hexdigest()[:16]}.npz"
    path.write_bytes(buffer.getvalue())
    return path


def _accepted(name: str, order: Order, record: Measured | Failed, known: Mapping[int, Measured]) -> Measured:
    """A record that answers an order. Raises NetadaptError for one that does not, and for a model that did not run."""
    wrong = contradiction(record, order.jobs, {(r.job, r.model) for r in known.values()})
    if wrong is not None:
        raise NetadaptError(f"{name}: the record of model {record.model}: {wrong}", code="results")
    if isinstance(record, Failed):
        raise NetadaptError(f"{name}: onnxruntime cannot run the model: {record.error}", code="unrunnable")
    order.execution.require_placed(record.placement)
    return record


def measure_on(device: Device, order: Order) -> dict[int, Measured]:
    """Have a device measure an order of one job; records by model number.

    Raises NetadaptError: a provider or a model that the device cannot run, nodes that another provider ran, a device
    that is lost, an answer that was not asked for or cannot be true.
    """
    order.execution.require(device.describe())
    if order.execution.library is not None and device.oldest:
        raise NetadaptError("--ep-library is for this machine", hint="leave --device away", code="usage")
    found: dict[int, Measured] = {}
    with tempfile.TemporaryDirectory(prefix="netadapt-") as folder:
        files = order.write(Path(folder), oldest=device.oldest)
        results = files.manifest.with_suffix(".jsonl").name
        here = [*(path.name for path in files.passing), files.manifest.name, results]
        try:
            device.push([*files.lasting, *files.passing, files.manifest])
            for record in device.run(files.manifest.name, results):
                if isinstance(record, Measured | Failed):
                    found[record.model] = _accepted(device.name, order, record, found)
        except NetadaptError as error:
            if error.code != LOST:  # whose folder nobody reaches now
                with suppress(NetadaptError):
                    device.remove(here)
            raise
        device.remove(here)
    missing = [m for job in order.jobs for m in job.models if m not in found]
    if missing:
        raise NetadaptError(f"{device.name}: {len(missing)} models came back without a time", code="device")
    return found
