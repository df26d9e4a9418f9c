"""Build a latency table: measure random-width versions of the model itself, each kernel in its context.

Versions are measured in batches. In a batch every session is open at the same time and takes its turn in every round:
one that profiles per version, and fresh ones that do not, and the uncut model as a witness of drift. A batch is written
when it is complete; a killed build goes on with the next.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec
import numpy as np

from netadapt_onnx._version import __version__
from netadapt_onnx.common.progress import Progress, stage
from netadapt_onnx.errors import NetadaptError
from netadapt_onnx.graph.runtime import Arrays
from netadapt_onnx.graph.weightless import file_bytes
from netadapt_onnx.profilers.agent import SESSION_BYTES
from netadapt_onnx.profilers.device import REFERENCE, Device, Job, Measured, Order, measure_on
from netadapt_onnx.profilers.devices.local import LocalDevice
from netadapt_onnx.profilers.execution import CPU, Execution, Fingerprint, differences, fingerprint
from netadapt_onnx.profilers.packing import unpacked_graph
from netadapt_onnx.profilers.random_widths import Draw, RandomWidthModel, named
from netadapt_onnx.profilers.table.predict import (
    SCHEMA,
    Cell,
    Header,
    Record,
    Reference,
    Shapes,
    Table,
    Whole,
    encode,
    of_wholes,
    read,
)
from netadapt_onnx.profilers.timing import measure
from netadapt_onnx.profilers.units import Layers, family

MODELS, WHOLE_MODELS = 64, 128
# A table of fewer versions predicts little: for these a build takes up to so many times its cap, and a minute in any
# case. With 16 busy processes on two cores, 16 versions of ResNet-20 took 32 s.
LEAST_MODELS, LENGTHENED, SHORTEST_S = 16, 3.0, 60.0
# Of its share of the cap a batch gets at least this much: where copying files to a device takes most of the time, fewer
# versions in more rounds are worth more than many in three.
LEAST_SHARE = 0.25
BATCH = 8
# Fresh sessions per version: memory layout differs from one to the next.
FRESH = 2
# Sessions of the uncut model beside each: all versions of a batch are compared with it.
ANCHORS = 1
# A batch has rounds enough when most sessions' medians are known to +-PRECISION, or at MOST_ROUNDS.
PRECISION, MOST_ROUNDS = 0.005, 50
REFERENCE_CAP_S = 10.0


def build(
    path: Path,
    reference: RandomWidthModel,
    draw: Draw,
    *,
    execution: Execution = CPU,
    models: int | None = None,
    time_cap_s: float = 100.0,
    progress: Progress | None = None,
    seed: int = 0,
    device: Device | None = None,
    log: Callable[[str], None] | None = None,
) -> Table:
    """Measure `models` versions on `device` (None: here) and write the table, or go on with an unfinished one.

    None: as many as the provider needs. One that shows no times of nodes needs more, since only whole times are fitted.

    Stops early, with the batches it has, when `time_cap_s` of measuring is used up, but goes on for `LENGTHENED` times
    as long, and `SHORTEST_S` at least, while they are too few for a table. `log` hears once that the device is busy.
    Raises NetadaptError if `path` is a table of something else (named), a version cannot run, or if after all that time
    the versions are still too few: what was measured is kept, and building again goes on.
    """
    device = device or LocalDevice()
    models = models or default_models(execution)
    environment = device.describe()
    execution.require(environment)
    header = header_of(reference, fingerprint(execution, environment), models, seed)
    records = _resume(path, header)
    if not any(isinstance(r, Reference) for r in records):
        with stage("building the table", bound_s=time_cap_s + REFERENCE_CAP_S):
            _measure_all(path, reference, draw, execution, device, header, records, time_cap_s, progress, log)
    return Table.load(path, reference.proto)


def default_models(execution: Execution) -> int:
    """How many versions a table is built from."""
    return MODELS if execution.provider.per_node else WHOLE_MODELS


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
    """Records of the finished batches; whatever came after them is cut off. A new file gets its header."""
    records: list[Record] = read(path)[0] if path.exists() else []
    if not records:
        path.write_bytes(encode([header]))
        return [header]
    found = records[0]
    assert isinstance(found, Header)  # or `read` had refused it
    unlike = differences(msgspec.structs.asdict(found) | found.device, msgspec.structs.asdict(header) | header.device)
    unlike = [line for line in unlike if not line.startswith("device:")]
    if unlike:
        raise NetadaptError(
            f"{path} is a table of something else ({'; '.join(unlike)})", hint="choose another path", code="other-table"
        )
    finished = max((i for i, r in enumerate(records) if isinstance(r, Whole | Reference)), default=0)
    records = records[: finished + 1]
    path.write_bytes(encode(records))
    return records


@dataclass(frozen=True)
class Pace:
    """How a build shares its time: `batches` in all, of which `left` are to be measured, and `needed` of them at least.

    `spent_s` was used; `beside_s` is what a batch takes besides measuring: files are made and copied, processes start.
    """

    time_cap_s: float
    batches: int
    left: int
    needed: int
    spent_s: float
    beside_s: float

    @property
    def least_s(self) -> float:
        """What a batch is measured for at least."""
        return LEAST_SHARE * self.time_cap_s / self.batches

    @property
    def fitting(self) -> int:
        """How many more batches there is time for."""
        each_s = max(1e-9, self.beside_s + self.least_s)
        return max(0, min(self.left, int((self.time_cap_s - self.spent_s) / each_s)))

    @property
    def over(self) -> bool:
        """Whether time is up, and the versions are enough for a table."""
        return not self.needed and (self.spent_s > self.time_cap_s or not self.fitting)

    @property
    def share_s(self) -> float:
        """How long the next batch is measured for: all that still fit alike."""
        number = max(1, self.needed, self.fitting)
        return max(self.least_s, (self.time_cap_s - self.spent_s) / number - self.beside_s)


def _measure_all(
    path: Path,
    reference: RandomWidthModel,
    draw: Draw,
    execution: Execution,
    device: Device,
    header: Header,
    records: list[Record],
    time_cap_s: float,
    progress: Progress | None,
    log: Callable[[str], None] | None,
) -> None:
    wholes = [r for r in records if isinstance(r, Whole)]
    done = {whole.model for whole in wholes}
    todo = [m for m in range(header.models) if m not in done]
    size = together(reference)
    inputs, layers = reference.inputs(), Layers(reference.proto)
    stopped, here_s, beside_s, busy = "done", 0.0, 0.0, False
    while todo:
        needed = min(LEAST_MODELS, header.models) - len(wholes)
        spent_s = sum(whole.seconds for whole in wholes)
        left = -(-len(todo) // size)
        pace = Pace(time_cap_s, -(-header.models // size), left, max(0, -(-needed // size)), spent_s, beside_s)
        if progress:
            progress(len(wholes), header.models, "measuring random versions")
        if pace.over:
            stopped = f"time cap of {time_cap_s:g} s"
            break
        if needed > 0 and here_s > max(LENGTHENED * time_cap_s, SHORTEST_S):
            raise _too_slow(wholes, header.models, device.name)
        batch, todo = todo[:size], todo[size:]
        started = time.perf_counter()
        versions = {m: reference if m == 0 else draw(np.random.default_rng([header.seed, m])) for m in batch}
        new, beside_s = _measure_batch(versions, reference, inputs, layers, execution, device, pace.share_s, started)
        with path.open("ab") as file:
            file.write(encode(new))
        measured = [r for r in new if isinstance(r, Whole)]
        wholes += measured
        here_s += sum(whole.seconds for whole in measured)
        if log and not busy and (busy := of_wholes(wholes).busy):
            log(of_wholes(wholes).sentence(device.name))
    if progress:
        progress(header.models, header.models, "timing the uncut model")
    with path.open("ab") as file:
        file.write(encode([_reference(reference, execution, device, time_cap_s, stopped)]))


def _reference(
    reference: RandomWidthModel, execution: Execution, device: Device, time_cap_s: float, stopped: str
) -> Reference:
    """The uncut model's own time."""
    started = time.perf_counter()
    cap_s = min(REFERENCE_CAP_S, time_cap_s)
    with stage("timing the uncut model"):
        [timing] = measure([reference.proto], reference.inputs(), execution, time_cap_s=cap_s, device=device)
    return Reference(timing.median_ms, timing.ci95, timing.sessions, stopped, time.perf_counter() - started)


def _too_slow(wholes: Sequence[Whole], models: int, device: str) -> NetadaptError:
    """What to say when there are too few versions for a table after all the time there is."""
    spent_s = sum(whole.seconds for whole in wholes)
    disturbance = of_wholes(wholes)
    needed = min(LEAST_MODELS, models)
    enough_s = 1.5 * spent_s / len(wholes) * models
    return NetadaptError(
        f"too busy or too slow: {len(wholes)} of {models} versions measured in {spent_s:.0f} s, and a table needs "
        f"{needed}",
        hint=(f"{disturbance.sentence(device)}; " if disturbance.busy else "")
        + f"run the same again, it goes on from there, or give `profile` --max-time {enough_s:.0f}s",
        code="too-slow",
    )


def together(reference: RandomWidthModel, sessions: int = 1 + FRESH) -> int:
    """Versions of a batch: fewer of a large model, whose sessions would not all fit into memory."""
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
    """Versions measured together, each in so many fresh sessions, beside the uncut model; `needed` in any case."""
    numbers = tuple(models)
    return Job(
        numbers,
        REFERENCE,
        profiled,
        sessions,
        "interval",
        PRECISION,
        (20, MOST_ROUNDS),
        seconds,
        min(numbers),
        shard,
        ANCHORS,
        needed,
    )


def _measure_batch(
    versions: Mapping[int, RandomWidthModel],
    reference: RandomWidthModel,
    inputs: Arrays,
    layers: Layers,
    execution: Execution,
    device: Device,
    share_s: float,
    started: float,
) -> tuple[list[Record], float]:
    """The records of a batch, and how many of the seconds since `started` the device did not measure for."""
    models = {REFERENCE: named(reference.proto), **{m: named(v.proto) for m, v in versions.items()}}
    order = Order(models, inputs, execution, (batch_job(versions, share_s, profiled=execution.provider.per_node),))
    found = measure_on(device, order)
    taken = time.perf_counter() - started
    seconds, beside_s = taken / len(versions), taken - sum(m.seconds for m in found.values())
    records: list[Record] = []
    for model, version in versions.items():
        records += records_of(msgspec.structs.replace(found[model], seconds=seconds), version.shapes, layers)
    return records, beside_s


def records_of(found: Measured, shapes: Shapes, layers: Layers) -> list[Record]:
    """A table's records of one measured version; `shapes` of all its tensors, `layers` of the uncut model.

    Without times of nodes every layer has a cell without a time, for its shapes.
    """
    whole = Whole(
        found.model,
        found.ms,
        found.reference_ms,
        found.reference_us,
        found.rounds,
        found.seconds,
        found.interval,
        found.reference_median_ms,
        found.others,
        found.cores,
    )
    if not found.optimised:
        known = [name for name in layers.names if all(t in shapes for t in layers.tensors(name))]
        dims = [[list(shapes[t]) for t in layers.tensors(name)] for name in known]
        return [*(Cell(found.model, [name], d, None) for name, d in zip(known, dims, strict=True)), whole]
    graph = unpacked_graph(found.optimised)
    records: list[Record] = []
    for kernel in layers.kernels(graph, found.us):
        main = [list(shapes[t]) for t in layers.tensors(layers.main(kernel.layers))]
        records.append(Cell(found.model, list(kernel.layers), main, round(kernel.us, 3), kernel.op))
    return [*records, whole]
