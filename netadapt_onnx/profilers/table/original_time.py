"""The time of the original file of whose normalised form a table is: measured in turn with that, and recorded."""

from __future__ import annotations

import time
from dataclasses import dataclass

import msgspec

from netadapt_onnx.errors import NetadaptError
from netadapt_onnx.graph.original_file import AsGiven, stands_in
from netadapt_onnx.profilers.device import Device
from netadapt_onnx.profilers.execution import Execution
from netadapt_onnx.profilers.random_widths import RandomWidthModel
from netadapt_onnx.profilers.statistics import Ratio
from netadapt_onnx.profilers.table.build import REFERENCE_CAP_S
from netadapt_onnx.profilers.table.file import OriginalTime, Shapes, append
from netadapt_onnx.profilers.table.predict import Table
from netadapt_onnx.profilers.timing import TimingPlan, ratio


@dataclass(frozen=True)
class OriginalPrediction:
    """The latency that a table predicts of a file and of its normalised form, in ms.

    They are equal where a runtime makes the same of both; `note` says if the file's own is unknown.
    """

    ms: float
    normalised_ms: float
    note: str = ""


def predict_original(table: Table, original: AsGiven, shapes: Shapes) -> OriginalPrediction:
    """Predict the latency of a file whose tensors, once it is normalised, have these shapes."""
    normalised_ms, measured = table.predict(shapes), table.original_ratio(original.sha256)
    if original.proto is None:
        return OriginalPrediction(normalised_ms, normalised_ms, original.note)
    if measured is None:
        note = "the latency is that of the normalised file: as it is it runs otherwise, which the table does not know"
        return OriginalPrediction(normalised_ms, normalised_ms, note)
    return OriginalPrediction(normalised_ms / (measured.median if measured.differs else 1.0), normalised_ms)


def record_original_time(
    table: Table,
    original: AsGiven,
    normalised: RandomWidthModel,
    execution: Execution,
    device: Device,
    time_cap_s: float,
) -> tuple[Table, str]:
    """Measure the original file's time into its table, unless a runtime makes the same of both forms.

    A file that the device cannot run as it is leaves the table as it was.

    Returns:
        The table with that time, and a note, if need be.
    """
    started = time.perf_counter()
    measured, note = time_original(table, original, normalised, execution, device, time_cap_s)
    if measured is None or measured == table.original_ratio(original.sha256):
        return table, note
    seconds = table.reference.seconds + time.perf_counter() - started
    original_time = OriginalTime(original.sha256, measured)
    append(table.path, [msgspec.structs.replace(table.reference, as_given=original_time, seconds=seconds)])
    return Table.load(table.path, normalised.proto), note


def time_original(
    table: Table,
    original: AsGiven,
    normalised: RandomWidthModel,
    execution: Execution,
    device: Device | None,
    time_cap_s: float = REFERENCE_CAP_S,
) -> tuple[Ratio | None, str]:
    """The normalised model's time relative to that of the file, from the table or else measured; and a note.

    It is None where a runtime makes the same of both, where the device cannot run the file, and without a `device`.
    """
    if original.proto is None:
        return None, original.note
    recorded = table.original_ratio(original.sha256)
    if recorded is not None or device is None:
        return recorded, ""
    inputs, plan = normalised.inputs(), TimingPlan(time_cap_s=min(REFERENCE_CAP_S, time_cap_s))
    try:
        return ratio(normalised.proto, original.proto, inputs, execution, plan, device=device), ""
    except NetadaptError as error:
        return None, stands_in(error)
