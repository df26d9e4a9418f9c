"""Builds a latency table: measures random-width models of one family, each kernel in its context.

Models are measured in batches. In a batch every session is open at the same time and takes its turn in every round:
one that profiles per model, fresh ones that do not, and the uncut model's, in which a drift of the device shows. A
batch is written when it is complete; a killed build goes on with the next.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import msgspec
import numpy as np

from netadapt_onnx._version import __version__
from netadapt_onnx.common.progress import Progress, reporter, stage
from netadapt_onnx.errors import NetadaptError
from netadapt_onnx.graph.runtime import Arrays
from netadapt_onnx.graph.weightless import file_bytes
from netadapt_onnx.profilers.agent import SESSION_BYTES
from netadapt_onnx.profilers.device import Device, Order, measure_on
from netadapt_onnx.profilers.devices.local import LocalDevice
from netadapt_onnx.profilers.execution import CPU, Execution, Fingerprint, fingerprint
from netadapt_onnx.profilers.packing import unpack_graph
from netadapt_onnx.profilers.random_widths import Draw, RandomWidthModel, with_node_names
from netadapt_onnx.profilers.records import REFERENCE, Job, MeasuredModel
from netadapt_onnx.profilers.table.file import (
    SCHEMA,
    Cell,
    EndToEndTime,
    Header,
    Record,
    Reference,
    Shapes,
    append,
    build_disturbance,
    encode,
    header_differences,
    header_of_file,
    read,
)
from netadapt_onnx.profilers.table.pace import Pace
from netadapt_onnx.profilers.table.predict import Table
from netadapt_onnx.profilers.timing import TimingPlan, measure
from netadapt_onnx.profilers.units import Layers, family

MODELS, WHOLE_MODELS = 64, 128
# A table of fewer models predicts little: for these a build takes up to so many times its cap, and a minute in any
# case. With 16 busy processes on two cores, 16 models of ResNet-20 took 32 s.
LEAST_MODELS, LENGTHENED, SHORTEST_S = 16, 3.0, 60.0
BATCH = 8
# Fresh sessions per model: memory layout differs from one to the next.
FRESH = 2
# Sessions of the uncut model for each of those: all models of a batch are compared with it.
ANCHORS = 1
# A batch has rounds enough when most sessions' medians are known to +-PRECISION, or at MOST_ROUNDS.
PRECISION, MOST_ROUNDS = 0.005, 50
REFERENCE_CAP_S = 10.0


@dataclass(frozen=True)
class TablePlan:
    """How large a table becomes.

    Attributes:
        models: how many random-width models are measured (None: as many as the execution provider needs).
        time_cap_s: seconds of measuring after which the build ends with the batches it has.
        seed: the seed of the widths.
    """

    models: int | None = None
    time_cap_s: float = 100.0
    seed: int = 0

    def model_count(self, execution: Execution) -> int:
        """How many models are measured. A provider that shows no times of nodes needs more of them."""
        return self.models or (MODELS if execution.provider.per_node else WHOLE_MODELS)


DEFAULT_PLAN = TablePlan()


def build(
    path: Path,
    reference: RandomWidthModel,
    draw: Draw,
    plan: TablePlan = DEFAULT_PLAN,
    *,
    execution: Execution = CPU,
    device: Device | None = None,
    progress: Progress | None = None,
    log: Callable[[str], None] | None = None,
) -> Table:
    """Measure random-width models and write the table, or go on with an unfinished one.

    The build stops early, with the batches it has, when the plan's time is used up, but goes on for `LENGTHENED` times
    as long, and `SHORTEST_S` at least, while the models are too few for a table.

    Args:
        path: the table's file.
        reference: the uncut model.
        draw: draws the models of other widths.
        plan: how many models are measured, for how long, and the seed.
        execution: how they run.
        device: where they run (None: on this machine).
        progress: called with the number of measured models.
        log: called once if the device is busy.

    Raises:
        NetadaptError: `path` is a table of something else, which is named; a model cannot run; or the models are still
            too few after all that time. What was measured is kept, and building again goes on.
    """
    device, progress = device or LocalDevice(), progress or reporter()
    environment = device.describe()
    execution.require(environment)
    header = header_of(reference, fingerprint(execution, environment), plan.model_count(execution), plan.seed)
    records = _resume(path, header)
    if not any(isinstance(r, Reference) for r in records):
        setup = _Setup(reference, draw, execution, device, header)
        with stage("building the table", bound_s=plan.time_cap_s + REFERENCE_CAP_S):
            end_to_end = [r for r in records if isinstance(r, EndToEndTime)]
            stopped = _measure_models(path, setup, end_to_end, plan.time_cap_s, progress, log)
            progress(header.models, header.models, "timing the uncut model")
            append(path, [_time_reference(setup, plan.time_cap_s, stopped)])
    return Table.load(path, reference.proto)


def header_of(reference: RandomWidthModel, device: Fingerprint, models: int, seed: int) -> Header:
    """The first line of a table."""
    return Header(
        schema=SCHEMA,
        tool=__version__,
        device=device,
        family=family(reference.proto),
        inputs={name: list(value.shape) for name, value in reference.inputs().items()},
        models=models,
        seed=seed,
    )


def _resume(path: Path, header: Header) -> list[Record]:
    """The records of the finished batches; whatever came after them is cut off. A new file gets its header."""
    records: list[Record] = read(path) if path.exists() else []
    if not records:
        path.write_bytes(encode([header]))
        return [header]
    if unlike := header_differences(header_of_file(path, records), header):
        raise NetadaptError(
            f"{path} is a table of something else ({'; '.join(unlike)})", hint="choose another path", code="other-table"
        )
    finished = max((i for i, r in enumerate(records) if isinstance(r, EndToEndTime | Reference)), default=0)
    records = records[: finished + 1]
    path.write_bytes(encode(records))
    return records


@dataclass(frozen=True)
class _Setup:
    """What a build measures, how it runs and where; `header` has the number of models and the seed."""

    reference: RandomWidthModel
    draw: Draw
    execution: Execution
    device: Device
    header: Header

    @cached_property
    def inputs(self) -> Arrays:
        """Inputs that all models take."""
        return self.reference.inputs()

    @cached_property
    def layers(self) -> Layers:
        """The uncut model's layers."""
        return Layers(self.reference.proto)

    def model(self, number: int) -> RandomWidthModel:
        """The model of this number; 0 is the uncut one."""
        return self.reference if number == 0 else self.draw(np.random.default_rng([self.header.seed, number]))


def _measure_models(
    path: Path,
    setup: _Setup,
    end_to_end: list[EndToEndTime],
    time_cap_s: float,
    progress: Progress,
    log: Callable[[str], None] | None,
) -> str:
    """Measure, batch by batch, the models that `end_to_end` lacks, which grows by them; returns why it stopped."""
    count, size = setup.header.models, models_per_batch(setup.reference)
    finished = {record.model for record in end_to_end}
    todo = [model for model in range(count) if model not in finished]
    this_run_s, overhead_s, busy = 0.0, 0.0, False
    while todo:
        needed = max(0, _batches(min(LEAST_MODELS, count) - len(end_to_end), size))
        used_s = sum(record.seconds for record in end_to_end)
        pace = Pace(time_cap_s, _batches(count, size), _batches(len(todo), size), needed, used_s, overhead_s)
        progress(len(end_to_end), count, "measuring random versions")
        if pace.over:
            return f"time cap of {time_cap_s:g} s"
        if needed and this_run_s > max(LENGTHENED * time_cap_s, SHORTEST_S):
            raise _too_slow(end_to_end, count, setup.device.name)
        batch, todo = todo[:size], todo[size:]
        started = time.perf_counter()
        models = {model: setup.model(model) for model in batch}
        records, overhead_s = _measure_batch(setup, models, pace.share_s, started)
        append(path, records)
        measured = [r for r in records if isinstance(r, EndToEndTime)]
        end_to_end += measured
        this_run_s += sum(record.seconds for record in measured)
        if log and not busy and (busy := build_disturbance(end_to_end).busy):
            log(build_disturbance(end_to_end).sentence(setup.device.name))
    return "done"


def _batches(models: int, size: int) -> int:
    """How many batches of this size so many models make."""
    return -(-models // size)


def _time_reference(setup: _Setup, time_cap_s: float, stopped: str) -> Reference:
    """The uncut model's own time."""
    started, plan = time.perf_counter(), TimingPlan(time_cap_s=min(REFERENCE_CAP_S, time_cap_s))
    with stage("timing the uncut model"):
        [timing] = measure([setup.reference.proto], setup.inputs, setup.execution, plan, device=setup.device)
    return Reference(timing.median_ms, timing.ci95, timing.sessions, stopped, time.perf_counter() - started)


def _too_slow(end_to_end: Sequence[EndToEndTime], count: int, device: str) -> NetadaptError:
    """The error of a build whose models are too few for a table after all the time there is."""
    used_s, disturbance = sum(record.seconds for record in end_to_end), build_disturbance(end_to_end)
    enough_s = 1.5 * used_s / len(end_to_end) * count
    hint = f"run the same again, it goes on from there, or give `profile` --max-time {enough_s:.0f}s"
    return NetadaptError(
        f"too busy or too slow: {len(end_to_end)} of {count} versions measured in {used_s:.0f} s, and a table needs "
        f"{min(LEAST_MODELS, count)}",
        hint=f"{disturbance.sentence(device)}; {hint}" if disturbance.busy else hint,
        code="too-slow",
    )


def models_per_batch(reference: RandomWidthModel, sessions: int = 1 + FRESH) -> int:
    """How many models a batch has: fewer of a large model, whose sessions would not all fit into memory."""
    each = sessions * file_bytes(reference.proto)
    return max(2, min(BATCH, SESSION_BYTES // max(1, each)))


def batch_job(
    models: Iterable[int],
    seconds: float | None,
    *,
    profiled: bool,
    shard: int | None = None,
    sessions: int = FRESH,
    needed: bool = False,
) -> Job:
    """The job of measuring models together with the uncut model.

    Args:
        models: their numbers.
        seconds: how long they are measured (None: for their share of the manifest's time).
        profiled: whether each also runs in a session with the profiler on.
        shard: the share of a bundle that the job belongs to.
        sessions: how many fresh sessions each gets.
        needed: whether they are measured even if time is up.
    """
    numbers, rounds = tuple(models), (20, MOST_ROUNDS)
    seed = min(numbers)
    return Job(
        numbers, REFERENCE, profiled, sessions, "interval", PRECISION, rounds, seconds, seed, shard, ANCHORS, needed
    )


def _measure_batch(
    setup: _Setup, models: Mapping[int, RandomWidthModel], share_s: float, started: float
) -> tuple[list[Record], float]:
    """The records of a batch, and for how many of the seconds since `started` the device did not measure."""
    protos = {number: with_node_names(model.proto) for number, model in models.items()}
    job = batch_job(models, share_s, profiled=setup.execution.provider.per_node)
    order = Order({REFERENCE: with_node_names(setup.reference.proto), **protos}, setup.inputs, setup.execution, (job,))
    measured = measure_on(setup.device, order)
    elapsed_s = time.perf_counter() - started
    seconds, overhead_s = elapsed_s / len(models), elapsed_s - sum(m.seconds for m in measured.values())
    records: list[Record] = []
    for number, model in models.items():
        result = msgspec.structs.replace(measured[number], seconds=seconds)
        records += records_of(result, model.shapes, setup.layers)
    return records, overhead_s


def records_of(measured: MeasuredModel, shapes: Shapes, layers: Layers) -> list[Record]:
    """A table's records of one measured model.

    Without times of nodes every layer has a cell without a time, for its shapes.

    Args:
        measured: what a device measured of it.
        shapes: those of all its tensors.
        layers: those of the uncut model.
    """

    def cell(names: Sequence[str], us: float | None = None, op: str = "") -> Cell:
        dims = [list(shapes[tensor]) for tensor in layers.tensors(layers.main(names))]
        return Cell(measured.model, list(names), dims, us, op)

    if measured.optimised:
        kernels = layers.kernels(unpack_graph(measured.optimised), measured.us)
        cells = [cell(kernel.layers, round(kernel.us, 3), kernel.op) for kernel in kernels]
    else:
        cells = [cell([name]) for name in layers.names if all(tensor in shapes for tensor in layers.tensors(name))]
    return [*cells, msgspec.convert(measured, EndToEndTime, from_attributes=True)]
