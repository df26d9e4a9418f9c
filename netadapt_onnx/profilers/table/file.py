"""The file of a latency table: its records as JSON lines, and whether they are of this model and device."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import msgspec
import numpy as np

from netadapt_onnx.common.json_output import json_bytes
from netadapt_onnx.errors import NetadaptError
from netadapt_onnx.profilers.checked_values import Count, Ms, Number, Processors, Seconds, Sessions, Us, Width
from netadapt_onnx.profilers.execution import Fingerprint, differences, require_alike
from netadapt_onnx.profilers.statistics import Disturbance, Ratio, disturbance_of_sessions, mean_load

SCHEMA = 1
Shapes = Mapping[str, tuple[int, ...]]


class Header(msgspec.Struct, frozen=True, tag_field="record", tag="header"):
    """The first line: what was measured, where, and the plan that a killed build goes on with."""

    schema: int
    tool: str
    device: dict[str, Any]
    family: str
    inputs: dict[str, list[int]]
    models: Count
    seed: int


class Cell(msgspec.Struct, frozen=True, tag_field="record", tag="cell"):
    """One kernel of one measured model.

    Attributes:
        model: the measured model's number.
        layers: the layers that the kernel stands for.
        shapes: the shapes of the main layer's tensors.
        us: its microseconds; None where the provider shows no times of nodes.
        kernel: its operator; which one runs depends on the widths.
    """

    model: Number
    layers: Annotated[list[str], msgspec.Meta(min_length=1)]
    shapes: list[list[Number]]
    us: Us | None
    kernel: str = ""


class EndToEndTime(msgspec.Struct, frozen=True, tag_field="record", tag="whole"):
    """One measured model without profiling, in fresh sessions, and the uncut model in the same rounds.

    Tables of older versions lack the fields with defaults.

    Attributes:
        model: the measured model's number; 0 is the uncut model.
        ms: milliseconds of each session's fastest runs.
        reference_ms: those of the uncut model's sessions.
        reference_us: the sum of the uncut model's kernels as profiled in these rounds.
        rounds: how often every session ran.
        seconds: what measuring took.
        interval: the width of the 95% interval of a session's median relative to it; that of the widest session.
        reference_median_ms: the medians of the same sessions as `reference_ms`.
        others: how many processors, of `cores`, other processes kept busy meanwhile.
        cores: how many processors the device has.
    """

    model: Number
    ms: Sessions
    reference_ms: Sessions
    reference_us: Us
    rounds: Number
    seconds: Seconds
    interval: Width = 0.0
    reference_median_ms: list[Ms] = []
    others: Processors | None = None
    cores: Count | None = None

    @property
    def reference_sessions_ms(self) -> list[float]:
        """The uncut model's sessions, in which disturbance shows: their medians, of older tables their fastest runs."""
        return list(self.reference_median_ms or self.reference_ms)

    @property
    def mean_reference_ms(self) -> float:
        """The uncut model's time in the same rounds."""
        return float(np.mean(self.reference_ms))

    @property
    def ratio(self) -> float:
        """The time relative to the uncut model's in the same rounds."""
        return float(np.mean(self.ms)) / self.mean_reference_ms


class OriginalTime(msgspec.Struct, frozen=True):
    """The uncut, normalised model timed in turn with the original file, which has this hash."""

    sha256: str
    ratio: Ratio


class Reference(msgspec.Struct, frozen=True, tag_field="record", tag="reference"):
    """The uncut model's median and 95% interval over fresh sessions (ms); the last line of a complete table.

    `as_given`: the original file's time, where a runtime makes something else of that than of the normalised model.
    """

    median_ms: Ms
    ci95: tuple[Ms, Ms]
    sessions: Count
    stopped: str
    seconds: Seconds
    as_given: OriginalTime | None = None


Record = Header | Cell | EndToEndTime | Reference
# What every table begins with, a torn one too: only such a file is ever completed or cut.
BEGINNING = b'{"record":"header",'
_DECODER = msgspec.json.Decoder(Record)


def encode(records: Sequence[Record]) -> bytes:
    """Encode records as JSON lines."""
    return b"".join(json_bytes(record) + b"\n" for record in records)


def append(path: Path, records: Sequence[Record]) -> None:
    """Write records to the end of a table."""
    with path.open("ab") as file:
        file.write(encode(records))


def read(path: Path) -> list[Record]:
    """Read the records of a table; a last line that was cut off is left out.

    Raises:
        NetadaptError: the file does not begin as a table does, or a line, which is named, cannot be read.
    """
    data = path.read_bytes()
    if data and not data.startswith(BEGINNING):
        raise _not_a_table(path)
    records: list[Record] = []
    timed: set[int] = set()
    measured: set[int] = set()
    for number, line in enumerate(data[: data.rfind(b"\n") + 1].splitlines(), 1):
        try:
            record = _DECODER.decode(line)
            _require_consistent(record, number, timed, measured)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError, ValueError) as error:
            raise NetadaptError(f"{path}, line {number}: {error}", hint="restore or delete it", code="table") from error
        records.append(record)
    if records and isinstance(records[0], Header):
        require_schema(path, records[0])
    return records


def _require_consistent(record: Record, number: int, timed: set[int], measured: set[int]) -> None:
    """Raise ValueError for a line that cannot follow those before it.

    A model's line comes after its cells, and the times of kernels are compared with the uncut model's. `timed` and
    `measured` are updated: the models whose cells have times, and those that have a line.
    """
    if isinstance(record, Header) != (number == 1):
        raise ValueError("a header, and only that, is the first line")
    if isinstance(record, Cell) and record.us is not None:
        timed.add(record.model)
    if isinstance(record, EndToEndTime):
        if record.model in measured:
            raise ValueError(f"model: {record.model} has a line already")
        if record.model in timed and not record.reference_us:
            raise ValueError("reference_us: 0 beside times of kernels")
        measured.add(record.model)


def _not_a_table(path: Path) -> NetadaptError:
    hint = "build one with `profile`, at a path of its own"
    return NetadaptError(f"{path} is not a latency table", hint=hint, code="table")


def header_of_file(path: Path, records: Sequence[Record]) -> Header:
    """The first record of a table. Raises NetadaptError if it is none."""
    if not records or not isinstance(records[0], Header):
        raise _not_a_table(path)
    return records[0]


def reference_of_file(path: Path, records: Sequence[Record]) -> Reference:
    """The last time of the uncut model in a table. Raises NetadaptError for an unfinished table, which has none."""
    references = [record for record in records if isinstance(record, Reference)]
    if not references:
        raise NetadaptError(f"{path} is not complete", hint="run profile again: it goes on", code="table")
    return references[-1]


def require_schema(path: Path, header: Header) -> None:
    """Raise NetadaptError for a table of another format."""
    if header.schema != SCHEMA:
        raise NetadaptError(f"{path} has table format {header.schema}; this version reads {SCHEMA}", code="table")


def check(path: Path, header: Header, model_family: str, device: Fingerprint | None) -> None:
    """Raise NetadaptError, naming what differs, if a table is another model's or another device's."""
    if header.family != model_family:
        raise NetadaptError(
            f"{path} was measured for another model: graph {header.family} there, {model_family} here",
            hint="measure a table of this model with the command profile",
            code="other-model",
        )
    if device is not None:
        hint = "measure one here with the command profile, or accept this one with --force"
        require_alike(header.device, device, f"{path} was measured on another device", hint)


def header_differences(earlier: Header, later: Header, ignored: str = "") -> list[str]:
    """List where two tables' headers differ, one readable line each, but for the `ignored` field."""
    lines = differences(*(msgspec.structs.asdict(header) | header.device for header in (earlier, later)))
    return [line for line in lines if line.partition(":")[0] not in ("device", ignored)]


def build_disturbance(end_to_end: Sequence[EndToEndTime]) -> Disturbance:
    """How disturbed the device was while these models were measured."""
    times_ms = [time for record in end_to_end for time in record.reference_sessions_ms]
    return disturbance_of_sessions(times_ms, *mean_load((record.others, record.cores) for record in end_to_end))
