"""Build a latency table: measure random-width versions of the model itself, each kernel in its context.

Versions are measured in batches. In a batch every session is open at the same time and takes its turn in every round:
one that profiles per version, and fresh ones that do not, and the uncut model as a witness of drift. A batch is written
when it is complete; a killed build goes on with the next.
"""

from __future__ import annotations

import base64
import time
import zlib
from collections.abc import Iterable, Mapping
from pathlib import Path

import msgspec
import numpy as np
import onnx

from netadapt_onnx import __version__
from netadapt_onnx.errors import NetadaptError
from netadapt_onnx.light import file_bytes
from netadapt_onnx.profilers.agent import SESSION_BYTES
from netadapt_onnx.profilers.devices.local import LocalDevice
from netadapt_onnx.profilers.measuring import REFERENCE, Device, Job, Measured, Order, measure_on
from netadapt_onnx.profilers.session import CPU, Execution, Fingerprint, differences, fingerprint
from netadapt_onnx.profilers.table import (
    SCHEMA,
    Cell,
    Header,
    Record,
    Reference,
    Shapes,
    Table,
    Whole,
    encode,
    family,
    read,
)
from netadapt_onnx.profilers.timing import measure
from netadapt_onnx.profilers.units import Layers
from netadapt_onnx.profilers.versions import Draw, Variant, named
from netadapt_onnx.progress import Progress, stage
from netadapt_onnx.runtime import Arrays

MODELS, WHOLE_MODELS = 64, 128
# A table of fewer versions predicts little.
LEAST_MODELS = 16
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
    reference: Variant,
    draw: Draw,
    *,
    execution: Execution = CPU,
    models: int | None = None,
    time_cap_s: float = 100.0,
    progress: Progress | None = None,
    seed: int = 0,
    device: Device | None = None,
) -> Table:
    """Measure `models` versions on `device` (None: here) and write the table, or go on with an unfinished one.

    None: as many as the provider needs. One that shows no times of nodes needs more, since only whole times are fitted.

    Stops early, with the batches it has, when `time_cap_s` of measuring is used up.
    Raises NetadaptError if `path` is a table of something else (named), a version cannot run, or the cap is too short.
    """
    device = device or LocalDevice()
    models = models or default_models(execution)
    environment = device.describe()
    execution.require(environment)
    header = header_of(reference, fingerprint(execution, environment), models, seed)
    records = _resume(path, header)
    if not any(isinstance(r, Reference) for r in records):
        with stage("building the table", bound_s=time_cap_s + REFERENCE_CAP_S):
            _measure_all(path, reference, draw, execution, device, header, records, time_cap_s, progress)
    return Table.load(path, reference.proto)


def default_models(execution: Execution) -> int:
    """How many versions a table is built from."""
    return MODELS if execution.provider.per_node else WHOLE_MODELS


def header_of(reference: Variant, device: Fingerprint, models: int, seed: int) -> Header:
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


def _measure_all(
    path: Path,
    reference: Variant,
    draw: Draw,
    execution: Execution,
    device: Device,
    header: Header,
    records: list[Record],
    time_cap_s: float,
    progress: Progress | None,
) -> None:
    done = {r.model for r in records if isinstance(r, Whole)}
    spent = sum(r.seconds for r in records if isinstance(r, Whole))
    size = together(reference)
    batches = [range(first, min(first + size, header.models)) for first in range(0, header.models, size)]
    inputs = reference.inputs()
    layers = Layers(reference.proto)
    # Making files and starting a process take time too: as long as the last time, or the last batches would pay for it.
    stopped, beside_s = "done", 0.0
    for i, batch in enumerate(batches):
        if done.issuperset(batch):
            continue
        if progress:
            progress(batch.start, header.models, "measuring random versions")
        if spent > time_cap_s:
            stopped = f"time cap of {time_cap_s:g} s"
            break
        started = time.perf_counter()
        versions = {m: reference if m == 0 else draw(np.random.default_rng([header.seed, m])) for m in batch}
        share_s = (time_cap_s - spent) / (len(batches) - i) - beside_s
        new, beside_s = _measure_batch(versions, reference, inputs, layers, execution, device, share_s, started)
        with path.open("ab") as file:
            file.write(encode(new))
        spent += sum(r.seconds for r in new if isinstance(r, Whole))
        _require_pace(spent, batch.stop, header.models, time_cap_s)
    if progress:
        progress(header.models, header.models, "timing the uncut model")
    started = time.perf_counter()
    with stage("timing the uncut model"):
        cap_s = min(REFERENCE_CAP_S, time_cap_s)
        [timing] = measure([reference.proto], inputs, execution, time_cap_s=cap_s, device=device)
    seconds = time.perf_counter() - started
    final = Reference(timing.median_ms, timing.ci95, timing.sessions, stopped, seconds)
    with path.open("ab") as file:
        file.write(encode([final]))


def _require_pace(spent: float, measured: int, models: int, time_cap_s: float) -> None:
    """Raise NetadaptError if the time cap leaves too few versions for a table; what there is can be gone on with."""
    needed = min(LEAST_MODELS, models)
    if measured < needed and spent > time_cap_s:
        raise NetadaptError(
            f"the model is too slow for the time cap: {measured} versions took {spent:.0f} of {time_cap_s:g} s, and a "
            f"table needs {needed}",
            hint=f"run again with --max-time {max(2 * time_cap_s, 1.5 * spent / measured * models):.0f}s: it goes on",
            code="too-slow",
        )


def together(reference: Variant, sessions: int = 1 + FRESH) -> int:
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
) -> Job:
    """Versions measured together, each in so many fresh sessions, beside the uncut model."""
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
    )


def _measure_batch(
    versions: Mapping[int, Variant],
    reference: Variant,
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
        found.model, found.ms, found.reference_ms, found.reference_us, found.rounds, found.seconds, found.interval
    )
    if not found.optimised:
        known = [name for name in layers.names if all(t in shapes for t in layers.tensors(name))]
        dims = [[list(shapes[t]) for t in layers.tensors(name)] for name in known]
        return [*(Cell(found.model, [name], d, None) for name, d in zip(known, dims, strict=True)), whole]
    graph = onnx.ModelProto.FromString(zlib.decompress(base64.b64decode(found.optimised))).graph
    records: list[Record] = []
    for kernel in layers.kernels(graph, found.us):
        main = [list(shapes[t]) for t in layers.tensors(layers.main(kernel.layers))]
        records.append(Cell(found.model, list(kernel.layers), main, round(kernel.us, 3), kernel.op))
    return [*records, whole]
