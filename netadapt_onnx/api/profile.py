"""Latency tables: what each width of each layer costs on a device, measured on random-width models."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Unpack

from netadapt_onnx.api.evaluate import Latency, latency
from netadapt_onnx.api.options import BundleOptions, ProfileOptions
from netadapt_onnx.api.source import Source, open_model, prepare_output
from netadapt_onnx.common import charts
from netadapt_onnx.common.files import aside
from netadapt_onnx.common.options import File, from_keywords
from netadapt_onnx.common.progress import reporter
from netadapt_onnx.errors import NetadaptError
from netadapt_onnx.graph.fold_shapes import fold
from netadapt_onnx.graph.model import Model
from netadapt_onnx.graph.original_file import as_given, runs_as_given
from netadapt_onnx.graph.runtime import random_inputs
from netadapt_onnx.profilers.breakdown import Part, by_group, by_layer
from netadapt_onnx.profilers.devices.opening import open_device
from netadapt_onnx.profilers.execution import Execution
from netadapt_onnx.profilers.int8_kernels import choose_quantisation
from netadapt_onnx.profilers.random_widths import RandomWidthModel, random_widths
from netadapt_onnx.profilers.statistics import Disturbance, Ratio
from netadapt_onnx.profilers.table.build import TablePlan, build
from netadapt_onnx.profilers.table.file import EndToEndTime, Header, Reference, build_disturbance
from netadapt_onnx.profilers.table.original_time import record_original_time
from netadapt_onnx.profilers.table.predict import Table
from netadapt_onnx.profilers.validate import Validation, validate
from netadapt_onnx.search.deployment import deployment
from netadapt_onnx.surgery.obstacles import require_prunable
from netadapt_onnx.surgery.trace import Trace, trace_model

if TYPE_CHECKING:
    from netadapt_onnx.api.keywords import BundleKeywords, ProfileKeywords
    from netadapt_onnx.profilers.bundle.results import Results


@dataclass(frozen=True)
class OwnLatency:
    """The latency of the original file as its owner runs it, and the share of it that the normalised model takes."""

    latency_ms: Latency
    normalised_ratio: float
    normalised_ci95: tuple[float, float]


@dataclass(frozen=True)
class ProfileResult:
    """A latency table, and how it was built.

    `device` is the fingerprint that the table is valid for; `seconds` is what building took, over all resumes.
    `versions` random-width models were measured, `precise` of them until their median was known to 1%; `stopped` says
    what ended the build. `drift`: by how much the device changed speed meanwhile; `disturbance`: how much the uncut
    model's sessions varied, and what else ran. `layers` and `groups` say where the time goes, if asked. `latency_ms` is
    the normalised model's, of which the table is; `as_given` the file's own, where that is another one. `notes` are
    cautions for users.
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


def profile(model: Source, table: File, **options: Unpack[ProfileKeywords]) -> ProfileResult:
    """Build the latency table of `model` on a device, or complete an interrupted one.

    `models` is how many random-width versions are measured; None: as many as the execution provider needs.

    `device`: `local`, `ssh://[user@]host[:port]`, `adb://SERIAL`, or one's own; `python` is the interpreter on it, and
    with `keep` the files stay there. `ep_options` are the execution provider's own, `ep_library` is the file of a
    plugin. `deploy="int8"` measures what onnxruntime's quantiser makes of each version, calibrated with
    training inputs of `data`. `perf_test`: an `onnxruntime_perf_test` built for a device without Python.
    `held_out` > 0 predicts and times that many widths that the table has not seen, and `plot` (.svg, .png) shows them;
    `per_layer` says where the time goes. `time_cap_s` ends building. `overwrite` starts anew, and the old
    table goes when the new one is complete. `log` hears that the device is busy. Raises NetadaptError if `table` is
    another device's or another model's, or if too little can be measured.

    >>> result = profile("model.onnx", "cpu.jsonl", models=10)
    >>> result.cells > 10 and result.latency_ms.median > 0
    True
    """
    settings = from_keywords(ProfileOptions, options)
    path, source = Path(table), open_model(model)
    prepare_output(path, True, source)
    chart = None
    if settings.plot is not None:
        chart = _prepared_chart(Path(settings.plot), settings.held_out, settings.overwrite, source, path)
    trace = trace_model(source, settings.shapes, settings.batch_size)
    require_prunable(trace, source.path)
    latency_table, validation, notes = _measure(path, source, trace, settings, chart)
    shapes = trace.folded.shapes
    owner = {layer: group.name for group in trace.groups for layer in group.layers}
    return ProfileResult(
        path,
        latency_table.device,
        len(latency_table.cells),
        latency_table.seconds,
        latency(latency_table.latency_ms),
        validation,
        len(latency_table.end_to_end),
        latency_table.precise,
        latency_table.reference.stopped,
        latency_table.drift,
        by_layer(latency_table, shapes, owner) if settings.per_layer else (),
        by_group(latency_table, shapes, owner) if settings.per_layer else (),
        _own_latency(latency_table.original_ratio(source.sha256)),
        latency_table.disturbance,
        tuple(notes),
    )


def _measure(
    path: Path, source: Model, trace: Trace, settings: ProfileOptions, chart: Path | None
) -> tuple[Table, Validation | None, list[str]]:
    """Build the table of a traced model on its device, validate it and draw that; with notes on all of it."""
    deploy = deployment(settings.deploy, trace.folded, settings.data)
    execution = Execution(settings.ep, settings.threads, settings.ep_options, settings.ep_library, deploy)
    reference, draw = RandomWidthModel(trace.folded.proto, trace.folded.shapes), random_widths(trace)
    plan = TablePlan(settings.models, settings.time_cap_s, settings.seed)
    progress, log = settings.progress or reporter(), settings.log
    binary = None if settings.perf_test is None else Path(settings.perf_test)
    with (
        open_device(
            settings.device, purpose=path, python=settings.python, keep=settings.keep, perf_test=binary, log=log
        ) as device,
        # Anew, it is built beside the old table, which it replaces when it is complete.
        aside(path) if settings.overwrite else nullcontext(path) as building,
    ):
        execution = choose_quantisation(execution, [device])
        table = build(building, reference, draw, plan, execution=execution, device=device, progress=progress, log=log)
        original = as_given(source, reference.proto)
        table, note = record_original_time(table, original, reference, execution, device, settings.time_cap_s)
        validation = None
        if settings.held_out:
            validation = validate(
                table, reference, draw, settings.held_out, progress=progress, device=device, execution=execution
            )
        notes = [table.disturbance.sentence(device.name)] if table.disturbance.busy else []
    if chart is not None and validation is not None:
        notes += scatter(validation, chart)
    return table, validation, [*notes, note] if note else notes


def _own_latency(ratio: Ratio | None) -> OwnLatency | None:
    """The original file's latency, from the normalised model's time relative to it; None where both take the same."""
    if ratio is None or not ratio.differs:
        return None
    return OwnLatency(latency(ratio.reference), ratio.median, ratio.ci95)


def _prepared_chart(plot: Path, held_out: int, overwrite: bool, *inputs: Source) -> Path:
    """The path of a chart, once it is sure that it can be drawn."""
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
    """A zip with `models` random-width models to be measured in `shards` shares; it unpacks into `folder`.

    `notes` are cautions for users.
    """

    bundle: Path
    models: int
    shards: int
    size_bytes: int
    folder: str = ""
    notes: tuple[str, ...] = ()


def bundle(model: Source, out: File, **options: Unpack[BundleKeywords]) -> BundleResult:
    """Write a zip that measures `models` versions of `model` wherever it is unpacked and run, for `import_results`.

    With `compare` it times `model` beside that one instead, for `import_comparison`. Raises NetadaptError if
    onnxruntime 1.16 could not read a model, naming the node.
    """
    settings = from_keywords(BundleOptions, options)
    path = Path(out)
    source = open_model(model)
    prepare_output(path, settings.overwrite, source)
    if settings.compare is not None:
        return _comparison_bundle(path, source, open_model(settings.compare), settings)
    trace = trace_model(source, settings.shapes, settings.batch_size)
    require_prunable(trace, source.path)
    deploy = deployment(settings.deploy, trace.folded, settings.data)
    execution = Execution(settings.ep, settings.threads, settings.ep_options, deploy=deploy)
    plan = TablePlan(settings.models, settings.time_cap_s, settings.seed)
    count = plan.model_count(execution)
    if not 1 <= settings.shards <= count:
        raise NetadaptError(f"--shards {settings.shards}: from 1 to {count}, the number of versions", code="usage")
    reference, draw = RandomWidthModel(trace.folded.proto, trace.folded.shapes), random_widths(trace)
    from netadapt_onnx.profilers.bundle.write import bundle_folder, write_bundle

    note = write_bundle(
        path,
        reference,
        draw,
        plan,
        execution=execution,
        original=as_given(source, reference.proto),
        shards=settings.shards,
        progress=settings.progress or reporter(),
    )
    return BundleResult(path, count, settings.shards, path.stat().st_size, bundle_folder(path), (note,) if note else ())


def _comparison_bundle(path: Path, model: Model, original: Model, settings: BundleOptions) -> BundleResult:
    """A zip that times two files beside one another, as their owner runs them."""
    from netadapt_onnx.profilers.bundle.compare import write_comparison
    from netadapt_onnx.profilers.bundle.write import bundle_folder

    if settings.shards != 1:
        raise NetadaptError("--shards splits a table's measurements", hint="leave it out with --compare", code="usage")
    folded = [fold(one.proto, dict(settings.shapes), settings.batch_size) for one in (model, original)]
    if folded[0].specs != folded[1].specs:
        raise NetadaptError(f"{model.path} and {original.path} take different inputs", code="usage")
    deploy = deployment(settings.deploy, folded[0], settings.data)
    execution = Execution(settings.ep, settings.threads, settings.ep_options, deploy=deploy)
    forms = [runs_as_given(one) if settings.deploy == "float" else (one.proto, "") for one in (model, original)]
    names = [str(model.path.name), str(original.path.name)]
    if names[0] == names[1]:
        names = [f"{one.path.absolute().parent.name}/{one.path.name}" for one in (model, original)]
    protos = {name: proto for name, (proto, _) in zip(names, forms, strict=True)}
    if len(protos) < 2:
        raise NetadaptError(f"{model.path} is compared with itself", hint="--compare names the original", code="usage")
    write_comparison(path, protos, random_inputs(folded[0].specs), execution)
    notes = tuple(note for _, note in forms if note)
    return BundleResult(path, 2, 1, path.stat().st_size, bundle_folder(path), notes)


@dataclass(frozen=True)
class ComparisonResult:
    """The time of `model` beside `original`, in ms, as a device measured it; `ratio` is model / original."""

    device: Mapping[str, object]
    model: str
    original: str
    latency_ms: Latency
    original_latency_ms: Latency
    ratio: float
    ci95: tuple[float, float]
    sessions: int


def import_comparison(results: Sequence[File]) -> ComparisonResult:
    """Read the results of a bundle that times two models, of one run or of several on one device.

    Raises NetadaptError for files that are something else, or of different bundles or devices.
    """
    from netadapt_onnx.profilers.bundle.compare import read_comparison

    read = read_comparison([Path(file) for file in results])
    ratio = read.ratio
    return ComparisonResult(
        read.device,
        read.names.model,
        read.names.original,
        latency(ratio.model),
        latency(ratio.reference),
        ratio.median,
        ratio.ci95,
        ratio.model.sessions,
    )


@dataclass(frozen=True)
class ImportResult:
    """A table made of results that were carried here. `notes` are cautions for users."""

    table: Path
    device: Mapping[str, object]
    cells: int
    notes: tuple[str, ...] = ()


def import_results(results: Sequence[File], table: File, *, overwrite: bool = False) -> ImportResult:
    """Make a latency table of the results of a bundle: of one run, several repetitions, or all its shards.

    `results` may be tables too, of one model and device: then each cell is the median of theirs. Raises NetadaptError
    for files that are neither, or of different bundles or devices, naming what differs.
    """
    from netadapt_onnx.profilers.bundle.results import merge_results, read_results, write_table
    from netadapt_onnx.profilers.table.merge import is_table, merge_tables

    path = Path(table)
    prepare_output(path, overwrite, *results)
    are_tables = [is_table(Path(file)) for file in results]
    if all(are_tables):
        records, notes = merge_tables([Path(file) for file in results])
    elif any(are_tables):
        raise NetadaptError(
            f"{results[are_tables.index(True)]} is a table and {results[are_tables.index(False)]} is not",
            hint="import the results of bundles, or merge tables",
            code="results",
        )
    else:
        files = [read_results(Path(file)) for file in results]
        records, notes = merge_results(files), _notes(files)
        last = records[-1]
        if isinstance(last, Reference) and last.stopped != "done":
            notes.append(last.stopped)
    header = records[0]
    assert isinstance(header, Header)
    disturbance = build_disturbance([record for record in records if isinstance(record, EndToEndTime)])
    notes += [disturbance.caution(str(path))] if disturbance.busy else []
    return ImportResult(path, header.device, write_table(path, records), tuple(notes))


def _notes(files: Sequence[Results]) -> list[str]:
    """What users should know of models that failed, or were measured while the device was hot."""
    failed = [record for file in files for record in file.failed]
    throttled = sum(record.throttled for file in files for record in file.measured)
    notes = []
    if failed:
        notes.append(f"{len(failed)} versions could not be run there: {failed[0].error}")
    if throttled:
        notes.append(f"{throttled} versions were measured while the device was slowed down by its heat")
    return notes
