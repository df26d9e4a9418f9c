"""Where models run: the protocol of devices, and how one is given an order and its answer is checked.

Names of files on a device are our own: nothing of a model's name reaches it.
"""

from __future__ import annotations

import hashlib
import io
import tempfile
import uuid
import zipfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import msgspec
import numpy as np
import onnx

from netadapt_onnx.common.files import digest
from netadapt_onnx.errors import NetadaptError
from netadapt_onnx.graph.model import data_file, save
from netadapt_onnx.graph.runtime import PROTOBUF_LIMIT, Arrays
from netadapt_onnx.graph.weightless import file_bytes, write
from netadapt_onnx.profilers.execution import Execution, execution_record
from netadapt_onnx.profilers.older_runtimes import portable
from netadapt_onnx.profilers.records import (
    REFERENCE,
    SCHEMA,
    AgentRecord,
    Environment,
    FailedModel,
    Job,
    Manifest,
    MeasuredModel,
    ModelFile,
    OutputsFile,
    contradiction,
)

# The code of the error that a device cannot be reached any more.
LOST = "device-lost"


class Device(Protocol):
    """A device on which models are measured.

    It has one folder, in which files go by the names that `push` gave them. `oldest`: whether models must be written as
    onnxruntime 1.16 reads them.
    """

    name: str
    oldest: bool

    def describe(self) -> Environment:
        """The environment as the agent describes it; of a device without Python what can be read from outside."""

    def push(self, files: Sequence[Path]) -> None:
        """Copy files into the device's folder, by their last names; those that it has already may be skipped."""

    def run(self, manifest: str, results: str) -> Iterable[AgentRecord]:
        """Do the jobs of a pushed manifest; yields the records of `results` on the device, as they appear."""

    def pull(self, name: str) -> bytes:
        """Read a file of the device's folder."""

    def remove(self, names: Sequence[str]) -> None:
        """Remove files from the device's folder."""

    def close(self) -> None:
        """Leave the device as it was before."""


@dataclass(frozen=True)
class OrderFiles:
    """The files of an order: its manifest, those that the next order needs too, and those that only this one needs."""

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

    def write(self, folder: Path, *, oldest: bool) -> OrderFiles:
        """Write manifest, inputs and models into `folder`.

        Raises NetadaptError naming what onnxruntime 1.16 cannot express, if they are written for the `oldest`.
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
        return OrderFiles(path, lasting, list(dict.fromkeys(passing)))


def write_model(proto: onnx.ModelProto, folder: Path, *, oldest: bool) -> tuple[ModelFile, list[Path]]:
    """Write a model to a file named after its content, and beyond protobuf's limit its weights to another."""
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
    """Write inputs to a file as numpy reads them, text as text."""
    buffer = io.BytesIO()
    texts = {name: value.astype("U") if value.dtype == object else value for name, value in inputs.items()}
    np.savez(buffer, **texts)  # type: ignore[arg-type]
    content = hashlib.sha256(b"".join(name.encode() + value.tobytes() for name, value in texts.items()))
    path = folder / f"{content.hexdigest()[:16]}.npz"
    path.write_bytes(buffer.getvalue())
    return path


def _unrunnable(name: str, record: FailedModel) -> NetadaptError:
    return NetadaptError(f"{name}: onnxruntime cannot run the model: {record.error}", code="unrunnable")


@contextmanager
def _records(device: Device, files: OrderFiles, *answers: str) -> Iterator[Iterable[AgentRecord]]:
    """Have a device do an order; gives its records.

    Files that only this order needs are removed there, those of `answers` among them, unless the device is lost.
    """
    results = files.manifest.with_suffix(".jsonl").name
    names = [*(path.name for path in files.passing), files.manifest.name, results, *answers]
    try:
        device.push([*files.lasting, *files.passing, files.manifest])
        yield device.run(files.manifest.name, results)
    except NetadaptError as error:
        if error.code != LOST:
            with suppress(NetadaptError):
                device.remove(names)
        raise
    device.remove(names)


def measure_on(device: Device, order: Order) -> dict[int, MeasuredModel]:
    """Have a device measure an order of one job.

    Args:
        device: where the models run.
        order: the models, and how they are measured.

    Returns:
        The record of each model by its number.

    Raises:
        NetadaptError: the device cannot run a provider or a model, another provider ran some of its nodes, the device
            is lost, or an answer contradicts the order.
    """
    order.execution.require(device.describe())
    if order.execution.library is not None and device.oldest:
        raise NetadaptError("--ep-library is for this machine", hint="leave --device away", code="usage")
    measured: dict[int, MeasuredModel] = {}
    with tempfile.TemporaryDirectory(prefix="netadapt-") as folder:
        files = order.write(Path(folder), oldest=device.oldest)
        with _records(device, files) as records:
            for record in records:
                if not isinstance(record, MeasuredModel | FailedModel):
                    continue
                wrong = contradiction(record, order.jobs, {(r.job, r.model) for r in measured.values()})
                if wrong is not None:
                    message = f"{device.name}: the record of model {record.model}: {wrong}"
                    raise NetadaptError(message, code="results")
                if isinstance(record, FailedModel):
                    raise _unrunnable(device.name, record)
                order.execution.require_placed(record.placement)
                measured[record.model] = record
    missing = [m for job in order.jobs for m in job.models if m not in measured]
    if missing:
        raise NetadaptError(f"{device.name}: {len(missing)} models came back without a time", code="device")
    return measured


def outputs_on_device(
    device: Device, execution: Execution, proto: onnx.ModelProto, batches: Iterable[Arrays]
) -> list[Arrays] | None:
    """Compute the outputs of a model, as it is, on a device.

    Args:
        device: where it runs.
        execution: how it runs.
        proto: the model.
        batches: inputs by name, all of one shape.

    Returns:
        The outputs of each batch by name; None from a device that only measures.

    Raises:
        NetadaptError: the device cannot run the model.
    """
    feeds = list(batches)
    stacked = {name: np.stack([batch[name] for batch in feeds]) for name in feeds[0]}
    answer: OutputsFile | None = None
    with tempfile.TemporaryDirectory(prefix="netadapt-") as folder:
        model, written = write_model(proto, Path(folder), oldest=device.oldest)
        inputs = write_inputs(stacked, Path(folder))
        manifest = inputs.with_name(f"{inputs.stem}-answers.json")
        plan = Manifest(SCHEMA, execution_record(execution), inputs.name, {"0": model}, (), answers=(0,))
        manifest.write_bytes(msgspec.json.encode(plan))
        file = f"{manifest.stem}-0.npz"
        with _records(device, OrderFiles(manifest, [], [*written, inputs]), file) as records:
            for record in records:
                if isinstance(record, FailedModel):
                    raise _unrunnable(device.name, record)
                if isinstance(record, OutputsFile):
                    if record.file != file:
                        raise NetadaptError(f"{device.name}: answers in a file that nobody asked for", code="results")
                    answer = record
            if answer is None:
                return None
            outputs = device.pull(file)
    return _by_batch(outputs, answer.names, len(feeds), device.name)


def _by_batch(file: bytes, names: Sequence[str], count: int, device: str) -> list[Arrays]:
    """Read the outputs of each of `count` batches. Raises NetadaptError for a file that does not hold them."""
    try:
        with zipfile.ZipFile(io.BytesIO(file)) as archive:
            if sum(member.file_size for member in archive.infolist()) > 2 * len(file):
                raise ValueError("it is compressed, which answers are not")
        with np.load(io.BytesIO(file)) as arrays:
            values = {output: arrays[f"arr_{i}"] for i, output in enumerate(names)}
        return [{output: batches[i] for output, batches in values.items()} for i in range(count)]
    except Exception as error:  # zipfile and numpy raise a dozen unrelated types, a tokenizer's among them
        raise NetadaptError(f"{device}: what a model computed there cannot be read: {error}", code="results") from error
