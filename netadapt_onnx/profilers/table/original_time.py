"""What the file itself takes of whose normalised form a table is: measured in turn with that, recorded in the table."""

from __future__ import annotations

import time
from dataclasses import dataclass

import msgspec

from netadapt_onnx.errors import NetadaptError
from netadapt_onnx.graph.original_file import AsGiven, stands_in
from netadapt_onnx.profilers.device import Device
from netadapt_onnx.profilers.execution import Execution
from netadapt_onnx.profilers.random_widths import RandomWidthModel
from netadapt_onnx.profilers.table.build import REFERENCE_CAP_S
from netadapt_onnx.profilers.table.predict import OriginalTime, Shapes, Table, encode
from netadapt_onnx.profilers.timing import Ratio, ratio


@dataclass(frozen=True)
class Predicted:
    """The latency that a table predicts of a file, in ms, and of what normalising makes of it.

    They are one where a runtime makes the same of both; `note` says so where nobody knows better.
    """

    ms: float
    normalised_ms: float
    note: str = ""


def predicted(table: Table, given: AsGiven, shapes: Shapes) -> Predicted:
    """What a table says of a file whose tensors, once it is normalised, have these shapes."""
    normalised_ms, known = table.predict(shapes), table.normalising(given.sha256)
    if given.proto is None:
        return Predicted(normalised_ms, normalised_ms, given.note)
    if known is None:
        note = "the latency is that of the normalised file: as it is it runs otherwise, which the table does not know"
        return Predicted(normalised_ms, normalised_ms, note)
    return Predicted(normalised_ms / (known.median if known.differs else 1.0), normalised_ms)


def with_own_time(
    table: Table, given: AsGiven, normalised: RandomWidthModel, execution: Execution, device: Device, time_cap_s: float
) -> tuple[Table, str]:
    """The table with the time of the file as given, unless a runtime makes the same of both; and a note, if need be.

    A file that the device cannot run as it is leaves the table as it was.
    """
    started = time.perf_counter()
    found, note = own_time(table, given, normalised, execution, device, time_cap_s)
    if found is None or found == table.normalising(given.sha256):
        return table, note
    seconds = table.reference.seconds + time.perf_counter() - started
    known = msgspec.structs.replace(table.reference, as_given=OriginalTime(given.sha256, found), seconds=seconds)
    with table.path.open("ab") as file:
        file.write(encode([known]))
    return Table.load(table.path, normalised.proto), note


def own_time(
    table: Table,
    given: AsGiven,
    normalised: RandomWidthModel,
    execution: Execution,
    device: Device | None,
    time_cap_s: float = REFERENCE_CAP_S,
) -> tuple[Ratio | None, str]:
    """The normalised model's time relative to that of the file, as the table has it or else as measured; and a note.

    None where a runtime makes the same of both, where the device cannot run the file, and where there is no `device`.
    """
    if given.proto is None:
        return None, given.note
    known = table.normalising(given.sha256)
    if known is not None or device is None:
        return known, ""
    inputs, cap_s = normalised.inputs(), min(REFERENCE_CAP_S, time_cap_s)
    try:
        return ratio(normalised.proto, given.proto, inputs, execution, time_cap_s=cap_s, device=device), ""
    except NetadaptError as error:
        return None, stands_in(error)
