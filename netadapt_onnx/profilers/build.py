"""Build a latency table: measure random-width versions of the model itself, each kernel in its context.

Versions are measured in batches. In a batch every session is open at the same time and takes its turn in every round:
one that profiles per version, and fresh ones that do not, and the uncut model as a witness of drift. A batch is written
when it is complete; a killed build goes on with the next.
"""

from __future__ import annotations

import shutil
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import onnx

from netadapt_onnx import __version__
from netadapt_onnx.errors import NetadaptError
from netadapt_onnx.folding import node_name
from netadapt_onnx.profilers.session import Execution, differences, fingerprint, open_session
from netadapt_onnx.profilers.table import (
    SCHEMA,
    Cell,
    Header,
    Record,
    Reference,
    Table,
    Whole,
    encode,
    family,
    read,
)
from netadapt_onnx.profilers.timing import SESSION_BYTES, UNDISTURBED, Rounds, caller, low_mean, measure
from netadapt_onnx.profilers.units import Layers
from netadapt_onnx.runtime import Arrays, random_inputs, run
from netadapt_onnx.surgery.criteria import select
from netadapt_onnx.surgery.groups import Group
from netadapt_onnx.surgery.resize import resize
from netadapt_onnx.surgery.trace import Trace

MODELS = 64
BATCH = 8
# Fresh sessions per version: memory layout differs from one to the next.
FRESH = 2
REFERENCE_CAP_S = 10.0
# Widths that a search proposes are multiples of this, mostly; shares of versions and of their groups that are not.
STEP = 8
UNALIGNED_VERSIONS, UNALIGNED_GROUPS = 0.3, 0.5

Progress = Callable[[int, int, str], None]


@dataclass(frozen=True)
class Variant:
    """A version of a model and the shape of every tensor in it."""

    proto: onnx.ModelProto
    shapes: Mapping[str, tuple[int, ...]]

    def inputs(self, seed: int = 0) -> Arrays:
        """Random inputs at these shapes."""
        specs = {
            v.name: (self.shapes[v.name], np.dtype(onnx.helper.tensor_dtype_to_np_dtype(v.type.tensor_type.elem_type)))
            for v in self.proto.graph.input
        }
        return random_inputs(specs, seed)


Draw = Callable[[np.random.Generator], Variant]


@dataclass(frozen=True)
class Validation:
    """Predicted against measured on `n` versions that the table has not seen; errors are fractions.

    `repeatability`: mean difference of the same versions measured again, the floor of any prediction.
    """

    n: int
    mape: float
    p95: float
    max: float
    pearson: float
    repeatability: float
    seconds: float


def random_versions(trace: Trace) -> Draw:
    """Versions of a traced model with every prunable group at a random width.

    Each version has a size of its own, so that nearly whole and nearly empty ones occur, and groups left whole are
    common, as in a search; some versions have unaligned groups. Raises NetadaptError if no group can be pruned.
    """
    if not trace.prunable:
        raise NetadaptError("the model has no prunable group", hint="`netadapt-onnx inspect` says why", code="nothing")

    def draw(rng: np.random.Generator) -> Variant:
        size = rng.uniform(0.3, 1.15)
        # Not all groups at once: kernels that read aligned and write unaligned widths cost something else again.
        unaligned = UNALIGNED_GROUPS if rng.random() < UNALIGNED_VERSIONS else 0.0
        counts = {group.name: _width(group, size, rng.random() >= unaligned, rng) for group in trace.prunable}
        keep = select(trace, counts, "first")
        return Variant(resize(trace, keep), trace.resized_shapes(keep))

    return draw


def _width(group: Group, size: float, aligned: bool, rng: np.random.Generator) -> int:
    share = float(np.clip(rng.uniform(size - 0.3, size + 0.3), 0.1, 1.0))
    step = int(np.lcm(STEP, group.step)) if aligned else group.step
    count = round(share * group.channels / step) * step
    return int(min(group.channels, max(count, step, group.floor)))


def build(
    path: Path,
    reference: Variant,
    draw: Draw,
    *,
    ep: str = "cpu",
    threads: int = 1,
    models: int = MODELS,
    time_cap_s: float = 100.0,
    progress: Progress | None = None,
    seed: int = 0,
) -> Table:
    """Measure `models` versions and write the table, or go on with a table that was left unfinished.

    Stops early, with the batches it has, when `time_cap_s` of measuring is used up.
    Raises NetadaptError if `path` is a table of something else (named), or a version cannot run.
    """
    execution = Execution(ep, threads)
    if not execution.provider.per_node:
        raise NetadaptError(
            f"'{ep}' runs whole subgraphs as one node, so it has no times per node to fill a table with",
            hint="measure with --ep cpu",
            code="no-node-times",
        )
    inputs = reference.inputs()
    header = Header(
        schema=SCHEMA,
        tool=__version__,
        device=fingerprint(execution),
        family=family(reference.proto),
        inputs={name: list(value.shape) for name, value in inputs.items()},
        models=models,
        seed=seed,
    )
    records = _resume(path, header)
    if not any(isinstance(r, Reference) for r in records):
        _measure_all(path, reference, draw, execution, header, records, time_cap_s, progress)
    return Table.load(path, reference.proto)


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
    header: Header,
    records: list[Record],
    time_cap_s: float,
    progress: Progress | None,
) -> None:
    done = {r.model for r in records if isinstance(r, Whole)}
    spent = sum(r.seconds for r in records if isinstance(r, Whole))
    together = _together(reference)
    batches = [range(first, min(first + together, header.models)) for first in range(0, header.models, together)]
    inputs = reference.inputs()
    layers = Layers(reference.proto)
    stopped = "done"
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
        share_s = (time_cap_s - spent) / (len(batches) - i)
        new = _measure_batch(versions, reference, inputs, layers, execution, share_s, started)
        with path.open("ab") as file:
            file.write(encode(new))
        spent += time.perf_counter() - started
    if progress:
        progress(header.models, header.models, "timing the uncut model")
    started = time.perf_counter()
    [timing] = measure([reference.proto], inputs, execution, time_cap_s=min(REFERENCE_CAP_S, time_cap_s))
    seconds = time.perf_counter() - started
    final = Reference(timing.median_ms, timing.ci95, timing.sessions, stopped, seconds)
    with path.open("ab") as file:
        file.write(encode([final]))


def _together(reference: Variant) -> int:
    """Versions of a batch: fewer of a large model, whose sessions would not all fit into memory."""
    each = (1 + FRESH) * int(reference.proto.ByteSize())
    return max(2, min(BATCH, SESSION_BYTES // max(1, each)))


def _measure_batch(
    versions: Mapping[int, Variant],
    reference: Variant,
    inputs: Arrays,
    layers: Layers,
    execution: Execution,
    share_s: float,
    started: float,
) -> list[Record]:
    profiled = [_Profiled(v, inputs, execution) for v in [*versions.values(), reference]]
    plain = [v.proto for v in versions.values()] + [reference.proto]
    fresh = max(1, min(FRESH, SESSION_BYTES // max(1, sum(p.ByteSize() for p in plain))))
    calls = [caller(proto, inputs, execution) for proto in plain for _ in range(fresh)]
    rounds = Rounds([p.call for p in profiled] + calls, seed=min(versions))
    left = share_s - (time.perf_counter() - started)
    rounds.settle(left)
    times = low_mean(rounds.times_ms[len(profiled) :]).reshape(len(plain), fresh)
    reference_us = sum(profiled[-1].finish()[1].values())
    records: list[Record] = []
    for model, version, profile in zip(versions, versions.values(), profiled, strict=False):
        for kernel in layers.kernels(*profile.finish()):
            shapes = [list(version.shapes[t]) for t in layers.tensors(layers.main(kernel.layers))]
            records.append(Cell(model, list(kernel.layers), shapes, round(kernel.us, 3)))
    seconds = (time.perf_counter() - started) / len(versions)
    for i, model in enumerate(versions):
        ms, reference_ms = (np.round(row, 6).tolist() for row in (times[i], times[-1]))
        records.append(Whole(model, ms, reference_ms, round(reference_us, 3), rounds.times_ms.shape[1], seconds))
    return records


class _Event(msgspec.Struct):
    name: str
    dur: float = 0.0
    cat: str = ""


class _Profiled:
    """A session with onnxruntime's profiler on."""

    SUFFIX = "_kernel_time"

    def __init__(self, version: Variant, inputs: Arrays, execution: Execution) -> None:
        self._folder = Path(tempfile.mkdtemp(prefix="netadapt-profile-"))
        self._optimised = self._folder / "optimised.onnx"
        self._session = open_session(
            _named(version.proto),
            execution,
            profile_prefix=str(self._folder / "profile"),
            optimised_path=self._optimised,
        )
        run(self._session, inputs)
        self._inputs = inputs

    def call(self) -> object:
        return self._session.run(None, self._inputs)

    def finish(self) -> tuple[onnx.GraphProto, dict[str, float]]:
        """The optimised graph, and microseconds of each of its nodes in the undisturbed runs."""
        try:
            data = Path(self._session.end_profiling()).read_bytes()
            graph = onnx.load(str(self._optimised)).graph
        finally:
            shutil.rmtree(self._folder, ignore_errors=True)
        nodes: dict[str, list[float]] = {}
        for event in msgspec.json.decode(data, type=list[_Event]):
            if event.cat == "Node" and event.name.endswith(self.SUFFIX):
                nodes.setdefault(event.name.removesuffix(self.SUFFIX), []).append(event.dur)
        return graph, {name: _undisturbed_us(np.array(us)) for name, us in nodes.items()}


def _undisturbed_us(us: np.ndarray) -> float:
    """Mean of a kernel's times near its fastest tenth.

    Node by node: where six processes share two cores hardly a whole run is undisturbed. The profiler counts whole
    microseconds, which only a mean over all of them undoes: hence the margin.
    """
    fast = float(np.quantile(us, UNDISTURBED))
    return float(us[us <= fast + max(1.5, 0.05 * fast)].mean())


def _named(proto: onnx.ModelProto) -> onnx.ModelProto:
    """A copy in which every node has a name of its own: profiles know nodes by name only."""
    copy = onnx.ModelProto()
    copy.CopyFrom(proto)
    seen: set[str] = set()
    for node in copy.graph.node:
        name = node_name(node)
        node.name = name if name not in seen else node.output[0]
        seen.add(node.name)
    return copy


def validate(
    table: Table,
    reference: Variant,
    draw: Draw,
    n: int = 24,
    *,
    seed: int = 1_000_000,
    time_cap_s: float = 60.0,
    progress: Progress | None = None,
) -> Validation:
    """Measure `n` versions that the table has not seen, and compare.

    All are measured twice, in other company and at another time, in fresh sessions and interleaved rounds.
    """
    started = time.perf_counter()
    execution = Execution(table.device["ep"], table.device["threads"], table.device["options"])
    inputs = reference.inputs()
    versions = [draw(np.random.default_rng([seed, i])) for i in range(n)]
    predicted = np.array([table.predict_ratio(version.shapes) for version in versions])
    passes = np.empty((2, n))
    batches = -(-n // _together(reference))
    for k in range(2):
        order = np.random.default_rng([seed, n, k]).permutation(n)
        for i, batch in enumerate(np.array_split(order, batches)):
            if progress:
                progress(k * batches + i, 2 * batches, "validating")
            chosen = [versions[j] for j in batch]
            passes[k, batch] = _ratios(chosen, reference, inputs, execution, time_cap_s / batches / 2)
    measured = passes.mean(0)
    errors = np.abs(predicted / measured - 1)
    return Validation(
        n,
        float(errors.mean()),
        float(np.quantile(errors, 0.95)),
        float(errors.max()),
        float(np.corrcoef(predicted, measured)[0, 1]) if n > 1 else 1.0,
        float(np.abs(passes[1] / passes[0] - 1).mean()),
        time.perf_counter() - started,
    )


def _ratios(
    versions: Sequence[Variant], reference: Variant, inputs: Arrays, execution: Execution, share_s: float
) -> np.ndarray[Any, Any]:
    """Time of each version relative to the reference's, in fresh sessions."""
    protos = [v.proto for v in versions] + [reference.proto]
    rounds = Rounds([caller(p, inputs, execution) for p in protos for _ in range(FRESH)])
    rounds.settle(share_s)
    times = low_mean(rounds.times_ms).reshape(len(protos), FRESH).mean(1)
    ratios: np.ndarray[Any, Any] = times[:-1] / times[-1]
    return ratios
