"""Reads what a bundle measured: files of strangers' devices, checked line by line, of which a table is made."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec
import onnx

from netadapt_onnx.common.files import write_atomically
from netadapt_onnx.common.missing_files import missing_file
from netadapt_onnx.errors import NetadaptError
from netadapt_onnx.profilers.checked_values import Count, Text
from netadapt_onnx.profilers.execution import Execution, Fingerprint, differences, fingerprint, require_alike
from netadapt_onnx.profilers.packing import unpack, unpack_graph
from netadapt_onnx.profilers.quantize import FULL, Deployment, Precision, Quantisation
from netadapt_onnx.profilers.records import (
    AgentRecord,
    End,
    EnvironmentRecord,
    FailedModel,
    Manifest,
    ManifestRecord,
    MeasuredModel,
    contradiction,
    decode_record,
)
from netadapt_onnx.profilers.statistics import ratio_of_pairs, timing_of_sessions
from netadapt_onnx.profilers.table.build import records_of
from netadapt_onnx.profilers.table.file import (
    Cell,
    Header,
    OriginalTime,
    Record,
    Reference,
    Shapes,
    encode,
    require_schema,
)
from netadapt_onnx.profilers.units import Layers

# The number of the file as given among a bundle's models, where a runtime makes something else of it than of the
# normalised one.
ORIGINAL = -2
HINT = "give the results.jsonl that a bundle wrote, as it is"
ONE_DEVICE = "import each device's into a table of its own"


class BundledModel(msgspec.Struct, frozen=True):
    """The model of a bundle, as its manifest describes it.

    Attributes:
        header: the first line of its table.
        graph: the uncut model without weights, packed.
        shapes: the shapes of each random-width model, packed.
        as_given: the hash of the original file.
    """

    header: Header
    graph: str
    shapes: str
    as_given: Text = ""


class ExecutionRecord(msgspec.Struct, frozen=True):
    """The execution of a bundle's models, as its manifest describes it."""

    ep: Text
    threads: Count
    options: dict[Text, Text]
    precision: Precision = "float"
    # Bundles that do not say how they are quantised were written when there was one way.
    quantisation: Quantisation = FULL

    @property
    def execution(self) -> Execution:
        """The execution. Raises NetadaptError for an unknown provider, or an option that it does not have."""
        deploy = Deployment(self.precision, quantisation=self.quantisation)
        return Execution(self.ep, self.threads, self.options, deploy=deploy)


@dataclass(frozen=True)
class Results:
    """One file of results.

    Attributes:
        path: the file.
        manifest: the manifest that it answers.
        about: the model that was measured.
        device: the fingerprint of the device.
        measured: the records of models that ran.
        failed: those of models that did not.
        stopped: why measuring ended, if it did.
    """

    path: Path
    manifest: Manifest
    about: BundledModel
    device: Fingerprint
    measured: tuple[MeasuredModel, ...]
    failed: tuple[FailedModel, ...]
    stopped: str | None


def read_results(path: Path) -> Results:
    """Read what an agent wrote; a torn last line is left out.

    Raises:
        NetadaptError: there is no such file, it holds no results or some that cannot be true (the error names the line
            and the field), or nothing was measured.
    """
    records = decode_results(path)
    manifest = _manifest(path, records)
    about, execution = _about(path, manifest)
    environments = (record.environment for record in records if isinstance(record, EnvironmentRecord))
    devices = [fingerprint(execution, environment) for environment in environments]
    measured, failed = answers(path, manifest, records)
    if not measured or not devices:
        reason = failed[0].error if failed else "it was not run, or killed at once"
        raise NetadaptError(f"{path}: nothing was measured: {reason}", hint="run its run.sh", code="results")
    for device in devices[1:]:
        require_alike(devices[0], device, f"{path}: measured on two devices", ONE_DEVICE)
    ends = [record.stopped for record in records if isinstance(record, End)]
    return Results(path, manifest, about, devices[0], measured, failed, ends[-1] if ends else None)


def require_results(path: Path) -> None:
    """Raise NetadaptError unless there is such a file."""
    if not path.is_file():
        raise missing_file(path)


def decode_results(path: Path) -> list[AgentRecord]:
    """The records of a file of results; a torn last line is left out. Raises NetadaptError for a line that is none."""
    require_results(path)
    data = path.read_bytes()
    lines = data[: data.rfind(b"\n") + 1].split(b"\n")[:-1]
    return [decode_record(line, f"{path}, line {number}", HINT) for number, line in enumerate(lines, 1)]


def _manifest(path: Path, records: Sequence[AgentRecord]) -> Manifest:
    """The manifest: the first record, and only that."""
    if not records or not isinstance(records[0], ManifestRecord) or "header" not in records[0].manifest.about:
        raise NetadaptError(f"{path} holds no results of a bundle", hint=HINT, code="results")
    again = next((n for n, r in enumerate(records[1:], 2) if isinstance(r, ManifestRecord)), None)
    if again is not None:
        raise refused(path, again, "a second manifest", "import files one by one")
    return records[0].manifest


def _about(path: Path, manifest: Manifest) -> tuple[BundledModel, Execution]:
    try:
        about = msgspec.convert(manifest.about, BundledModel)
        execution = msgspec.convert(manifest.execution, ExecutionRecord).execution
    except msgspec.ValidationError as error:
        raise refused(path, 1, f"the manifest: {error}") from error
    except NetadaptError as error:
        raise refused(path, 1, f"the manifest: {error.message}", error.hint, error.code) from error
    require_schema(path, about.header)
    return about, execution


def answers(
    path: Path, manifest: Manifest, records: Sequence[AgentRecord]
) -> tuple[tuple[MeasuredModel, ...], tuple[FailedModel, ...]]:
    """The records of models, each of which answers the manifest, and that once."""
    answered: set[tuple[int, int]] = set()
    for number, record in enumerate(records, 1):
        if isinstance(record, MeasuredModel | FailedModel):
            wrong = contradiction(record, manifest.jobs, answered)
            if wrong is not None:
                raise refused(path, number, wrong)
            answered.add((record.job, record.model))
    measured = tuple(record for record in records if isinstance(record, MeasuredModel))
    return measured, tuple(record for record in records if isinstance(record, FailedModel))


def refused(path: Path, line: int, what: str, hint: str = HINT, code: str = "results") -> NetadaptError:
    """The error for a line of results that cannot be true."""
    return NetadaptError(f"{path}, line {line}: {what}", hint=hint, code=code)


def merge_results(results: Sequence[Results]) -> list[Record]:
    """Make one table's records of shards and repetitions, all of one bundle and one kind of device.

    A model that was measured again counts as one more model. Raises NetadaptError naming what differs.
    """
    first = results[0]
    for other in results[1:]:
        _same_bundle(first, other)
        what = f"{first.path} and {other.path} are of different devices"
        require_alike(first.device, other.device, what, ONE_DEVICE)
    header = msgspec.structs.replace(first.about.header, device=first.device)
    layers, shapes = _model(first)
    records: list[Record] = [header]
    times: Counter[int] = Counter()
    uncut_ms: list[float] = []
    original_ms: list[float] = []
    seconds = 0.0
    for file in results:
        for record in file.measured:
            if record.model == ORIGINAL:
                original_ms += record.median_ms
                continue
            if file.manifest.jobs[record.job].reference is None:
                uncut_ms += record.median_ms
                seconds += record.seconds
                continue
            number = record.model + times[record.model] * header.models
            times[record.model] += 1
            records += _version(file.path, msgspec.structs.replace(record, model=number), shapes[record.model], layers)
    if not uncut_ms or not times:
        message = f"{first.path}: the measuring was interrupted"
        raise NetadaptError(message, hint="run run.sh again: it goes on", code="results")
    timing = timing_of_sessions(uncut_ms)
    stopped = "done" if len(times) == header.models else f"{len(times)} of {header.models} versions measured"
    original = None
    if len(original_ms) == len(uncut_ms):  # their sessions took turns; a file that was torn between them says nothing
        original = OriginalTime(first.about.as_given, ratio_of_pairs(uncut_ms, original_ms))
    records.append(Reference(timing.median_ms, timing.ci95, timing.sessions, stopped, seconds, original))
    return records


def _same_bundle(first: Results, other: Results) -> None:
    unlike = differences(*(msgspec.to_builtins(results.about.header) for results in (first, other)))
    for field in ("jobs", "execution"):
        if getattr(first.manifest, field) != getattr(other.manifest, field):
            unlike.append(f"{field} differs")
    if unlike:
        message = f"{other.path} and {first.path} are of different bundles ({'; '.join(unlike)})"
        raise NetadaptError(message, code="results")


def _model(results: Results) -> tuple[Layers, list[Shapes]]:
    """The uncut model's layers, and the shapes of each model that there are jobs for."""
    try:
        layers = Layers(onnx.ModelProto(graph=unpack_graph(results.about.graph)))
        shapes = msgspec.json.decode(unpack(results.about.shapes), type=list[dict[str, tuple[int, ...]]])
    except (ValueError, msgspec.DecodeError, RecursionError) as error:
        raise refused(results.path, 1, f"the manifest: {error}") from error
    most = max(model for job in results.manifest.jobs for model in job.models)
    if not most < results.about.header.models == len(shapes):
        counts = f"shapes of {len(shapes)} versions, {results.about.header.models} in the header"
        raise refused(results.path, 1, f"the manifest: {counts}, and jobs for {most + 1}")
    return layers, list(shapes)


def _version(path: Path, measured: MeasuredModel, shapes: Shapes, layers: Layers) -> list[Record]:
    try:
        return records_of(measured, shapes, layers)
    except KeyError as error:
        what = f"the manifest: no shape of tensor {error} in version {measured.model}"
        raise refused(path, 1, what) from error
    except msgspec.ValidationError as error:  # a model of the manifest's jobs with a number that no version has
        raise refused(path, 1, f"the manifest: version {measured.model}: {error}") from error


def write_table(path: Path, records: Sequence[Record]) -> int:
    """Write a table whole or not at all; returns its number of cells."""
    write_atomically(path, encode(records))
    return sum(isinstance(record, Cell) for record in records)
