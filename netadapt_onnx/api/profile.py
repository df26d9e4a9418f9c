"""Latency tables: what each width of each layer costs on a device, learnt from random-width versions."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from netadapt_onnx.api.evaluate import Latency, latency
from netadapt_onnx.api.source import Source, open_model, prepare_output
from netadapt_onnx.common import charts
from netadapt_onnx.common.files import aside
from netadapt_onnx.common.progress import reporter
from netadapt_onnx.errors import NetadaptError
from netadapt_onnx.graph.original_file import as_given
from netadapt_onnx.graph.shapes import Shapes
from netadapt_onnx.profilers.breakdown import Part, by_group, by_layer
from netadapt_onnx.profilers.device import Device
from netadapt_onnx.profilers.devices.opening import LOCAL, opened_device
from netadapt_onnx.profilers.execution import Execution
from netadapt_onnx.profilers.int8_kernels import made_for
from netadapt_onnx.profilers.quantize import Precision
from netadapt_onnx.profilers.random_widths import RandomWidthModel, random_versions
from netadapt_onnx.profilers.statistics import Disturbance
from netadapt_onnx.profilers.table.build import build, default_models
from netadapt_onnx.profilers.table.original_time import with_own_time
from netadapt_onnx.profilers.table.predict import Header, Record, Reference, Whole, of_wholes
from netadapt_onnx.profilers.timing import Ratio
from netadapt_onnx.profilers.validate import Validation, validate
from netadapt_onnx.search.calibration import deployment
from netadapt_onnx.surgery.obstacles import require_prunable
from netadapt_onnx.surgery.trace_model import trace_model

TIME_CAP_S = 100.0


@dataclass(frozen=True)
class OwnLatency:
    """The file as its owner runs it, and the share of its time that the normalised model takes, measured in turn."""

    latency_ms: Latency
    normalised_ratio: float
    normalised_ci95: tuple[float, float]


@dataclass(frozen=True)
class ProfileResult:
    """`device` is the fingerprint that the table is valid for; `seconds` what building took, over all resumes.

    `versions` were measured, `precise` of them until their median was known to 1%; `stopped` says what ended the build.
    `drift`: by how much the device changed speed meanwhile; `disturbance`: how much the uncut model's sessions varied,
    and what else ran. `layers` and `groups` say where the time goes, if asked. `latency_ms` is the normalised model's,
    of which the table is; `as_given` the file's own, where that is another one. `notes`: what else to know.
    """

    table: Path
    device: Mapping[str, object]
    cells: int
    seconds: float
    latency_ms: Latency
    validation: Validation | None
    versions: int = 0
    precise: int = 0
    stopped: str = "done"
    drift: float = 0.0
    layers: tuple[Part, ...] = ()
    groups: tuple[Part, ...] = ()
    as_given: OwnLatency | None = None
    disturbance: Disturbance = field(default_factory=Disturbance)
    notes: tuple[str, ...] = ()


def profile(
    model: Source,
    table: str | os.PathLike[str],
    *,
    device: str | Device = LOCAL,
    ep: str = "cpu",
    ep_options: Mapping[str, str] | None = None,
    ep_library: str | None = None,
    threads: int = 1,
    deploy: Precision = "float",
    data: str | os.PathLike[str] | None = None,
    python: str = "python3",
    keep: bool = False,
    perf_test: str | os.PathLike[str] | None = None,
    held_out: int = 0,
    plot: str | os.PathLike[str] | None = None,
    per_layer: bool = False,
    models: int | None = None,
    time_cap_s: float = TIME_CAP_S,
    seed: int = 0,
    shapes: Shapes | None = None,
    batch_size: int = 1,
    overwrite: bool = False,
    progress: Callable[[int, int, str], None] | None = None,
    log: Callable[[str], None] | None = None,
) -> ProfileResult:
    """Build the latency table of `model` on a device from `models` versions, or complete an interrupted one.

    None: as many versions as the execution provider needs.

    `device`: `local`, `ssh://[user@]host[:port]`, `adb://SERIAL`, or one's own; `python` is the interpreter on it, and
    with `keep` the files stay there. `ep_options` are the execution provider's own, `ep_library` is the file of a
    plugin. `deploy="int8"` measures what onnxruntime's quantiser makes of each version, calibrated with
    training inputs of `data`. `perf_test`: an `onnxruntime_perf_test` built for a device without Python.
    `held_out` > 0 predicts and times that many widths that the table has not seen, and `plot` (.svg, .png) shows them;
    `per_layer` says where the time goes. `time_cap_s` ends building. `overwrite` starts anew, and the old
    table goes when the new one is complete. `log` hears that the device is busy. Raises NetadaptError if `table` is
    another device's or another model's, or if too little can be measured.

    >>> made = profile("model.onnx", "cpu.jsonl", models=10)
    >>> made.cells > 10 and made.latency_ms.median > 0
    True
    """
    path = Path(table)
    progress = progress or reporter()
    source = open_model(model)
    prepare_output(path, True, source)
    chart = None if plot is None else _prepared(Path(plot), held_out, overwrite, source, path)
    found = trace_model(source, shapes, batch_size)
    require_prunable(found, source.path)
    execution = Execution(ep, threads, ep_options or {}, ep_library, deployment(deploy, found.folded, data))
    reference, draw = RandomWidthModel(found.folded.proto, found.folded.shapes), random_versions(found)
    binary = None if perf_test is None else Path(perf_test)
    with (
        opened_device(device, purpose=path, python=python, keep=keep, perf_test=binary, log=log) as there,
        _place(path, anew=overwrite) as place,
    ):
        execution = made_for(execution, [there])
        built = build(
            place,
            reference,
            draw,
            execution=execution,
            models=models,
            time_cap_s=time_cap_s,
            progress=progress,
            seed=seed,
            device=there,
            log=log,
        )
        given = as_given(source, reference.proto)
        built, note = with_own_time(built, given, reference, execution, there, time_cap_s)
        validation = None
        if held_out:
            validation = validate(
                built, reference, draw, held_out, progress=progress, device=there, execution=execution
            )
        disturbance = built.disturbance
        notes = (disturbance.sentence(there.name),) if disturbance.busy else ()
    if chart is not None and validation is not None:
        notes = (*notes, *scatter(validation, chart))
    shown = found.folded.shapes
    owner = {layer: group.name for group in found.groups for layer in group.layers}
    return ProfileResult(
        path,
        built.device,
        len(built.cells),
        built.seconds,
        latency(built.latency_ms),
        validation,
        len(built.wholes),
        built.precise,
        built.reference.stopped,
        built.drift,
        by_layer(built, shown, owner) if per_layer else (),
        by_group(built, shown, owner) if per_layer else (),
        _own(built.normalising(source.sha256)),
        disturbance,
        (*notes, note) if note else notes,
    )


def _own(found: Ratio | None) -> OwnLatency | None:
    return (
        OwnLatency(latency(found.reference), found.median, found.ci95) if found is not None and found.differs else None
    )


def _prepared(plot: Path, held_out: int, overwrite: bool, *inputs: Source) -> Path:
    """Where a chart goes, once it is sure that it can be made."""
    if not held_out:
        raise NetadaptError("a plot shows held-out versions, and none are asked for", hint="--validate N", code="usage")
    charts.require_kind(plot)
    prepare_output(plot, overwrite, *inputs)
    return plot


def scatter(validation: Validation, path: Path) -> tuple[str, ...]:
    """Draw predicted against measured latency, with the line on which they agree; a note says why where that fails."""
    points = [{"measured ms": m, "predicted ms": p} for p, m in validation.points]
    ends = [f([x for pair in validation.points for x in pair]) for f in (min, max)]
    off, again = f"{validation.mape:.1%}", f"{validation.repeatability:.1%}"
    title = f"{validation.n} unseen widths: {off} off on average, repeatability {again}"
    spec = charts.against(points, "measured ms", "predicted ms", ends, title=title)
    try:
        charts.write_one(spec, path)
    except NetadaptError as error:
        return (error.message,)
    return ()


@dataclass(frozen=True)
class BundleResult:
    """A zip with `models` versions to be measured in `shards` shares; it unpacks into `folder`.

    `notes`: what else to know of it.
    """

    bundle: Path
    models: int
    shards: int
    size_bytes: int
    folder: str = ""
    notes: tuple[str, ...] = ()


def bundle(
    model: Source,
    out: str | os.PathLike[str],
    *,
    shards: int = 1,
    ep: str = "cpu",
    ep_options: Mapping[str, str] | None = None,
    threads: int = 1,
    deploy: Precision = "float",
    data: str | os.PathLike[str] | None = None,
    models: int | None = None,
    time_cap_s: float = TIME_CAP_S,
    seed: int = 0,
    shapes: Shapes | None = None,
    batch_size: int = 1,
    overwrite: bool = False,
    progress: Callable[[int, int, str], None] | None = None,
) -> BundleResult:
    """Write a zip that measures `models` versions of `model` wherever it is unpacked and run, for `import_results`.

    Raises NetadaptError if onnxruntime 1.16 could not read the model, naming the node.
    """
    path = Path(out)
    source = open_model(model)
    prepare_output(path, overwrite, source)
    found = trace_model(source, shapes, batch_size)
    require_prunable(found, source.path)
    execution = Execution(ep, threads, ep_options or {}, deploy=deployment(deploy, found.folded, data))
    models = models or default_models(execution)
    if not 1 <= shards <= models:
        raise NetadaptError(f"--shards {shards}: from 1 to {models}, the number of versions", code="usage")
    reference, draw = RandomWidthModel(found.folded.proto, found.folded.shapes), random_versions(found)
    from netadapt_onnx.profilers.devices.bundle import bundle_folder, write_bundle

    note = write_bundle(
        path,
        reference,
        draw,
        execution,
        given=as_given(source, reference.proto),
        models=models,
        shards=shards,
        time_cap_s=time_cap_s,
        seed=seed,
        progress=progress or reporter(),
    )
    notes = (note,) if note else ()
    return BundleResult(path, models, shards, path.stat().st_size, bundle_folder(path), notes)


@dataclass(frozen=True)
class ImportResult:
    """A table made of results that were carried here. `notes`: what else to know of them."""

    table: Path
    device: Mapping[str, object]
    cells: int
    notes: tuple[str, ...] = ()


def import_results(
    results: Sequence[str | os.PathLike[str]], table: str | os.PathLike[str], *, overwrite: bool = False
) -> ImportResult:
    """Make a latency table of the results of a bundle: of one run, several repetitions, or all its shards.

    `results` may be tables too, of one model and device: then each cell is the median of theirs. Raises NetadaptError
    for files that are neither, or of different bundles or devices, naming what differs.
    """
    from netadapt_onnx.profilers.devices.results import merged, read_results, write_table
    from netadapt_onnx.profilers.table.merge import is_table, merged_tables

    path = Path(table)
    prepare_output(path, overwrite, *results)
    tables = [is_table(Path(file)) for file in results]
    if all(tables):
        joined, notes = merged_tables([Path(file) for file in results])
        assert isinstance(joined[0], Header)
        notes += _cautions(path, joined)
        return ImportResult(path, joined[0].device, write_table(path, joined), tuple(notes))
    if any(tables):
        raise NetadaptError(
            f"{results[tables.index(True)]} is a table and {results[tables.index(False)]} is not",
            hint="import the results of bundles, or merge tables",
            code="results",
        )
    read = [read_results(Path(file)) for file in results]
    records = merged(read)
    failed = [one for file in read for one in file.failed]
    throttled = sum(one.throttled for file in read for one in file.measured)
    notes = []
    if failed:
        notes.append(f"{len(failed)} versions could not be run there: {failed[0].error}")
    if throttled:
        notes.append(f"{throttled} versions were measured while the device was slowed down by its heat")
    last = records[-1]
    if isinstance(last, Reference) and last.stopped != "done":
        notes.append(last.stopped)
    notes += _cautions(path, records)
    return ImportResult(path, read[0].device, write_table(path, records), tuple(notes))


def _cautions(path: Path, records: Sequence[Record]) -> list[str]:
    """What to know of a table of these records if the device was busy."""
    disturbance = of_wholes([record for record in records if isinstance(record, Whole)])
    return [disturbance.caution(str(path))] if disturbance.busy else []


@contextmanager
def _place(path: Path, *, anew: bool) -> Iterator[Path]:
    """Where to build: in `path`, which an interrupted build goes on with; or, `anew`, beside it, and then renamed."""
    if not anew:
        yield path
        return
    with aside(path) as temporary:
        yield temporary
