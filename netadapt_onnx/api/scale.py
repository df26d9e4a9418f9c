"""`scale`: how an architecture's widths should be distributed at any size, and networks of the requested sizes."""

from __future__ import annotations

import tempfile
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Unpack

from netadapt_onnx.api.source import Source, open_model
from netadapt_onnx.common.options import File, from_keywords
from netadapt_onnx.common.progress import Progress, reporter, unheard
from netadapt_onnx.common.provenance import file_hash, versions
from netadapt_onnx.data.dataset import Dataset
from netadapt_onnx.data.load_dataset import load_dataset
from netadapt_onnx.data.sample_shapes import fold_for
from netadapt_onnx.errors import NetadaptError
from netadapt_onnx.graph.model import Model
from netadapt_onnx.graph.original_file import as_given
from netadapt_onnx.profilers import agent
from netadapt_onnx.profilers.execution import Execution, fingerprint
from netadapt_onnx.profilers.table.build import TablePlan
from netadapt_onnx.profilers.table.predict import Table
from netadapt_onnx.scaling.driver import ScaleDriver
from netadapt_onnx.scaling.latency_target import LatencyMeasurements
from netadapt_onnx.scaling.network import ScalableNetwork
from netadapt_onnx.scaling.options import ScaleOptions
from netadapt_onnx.scaling.power_law import Law, fit_laws, read_law
from netadapt_onnx.scaling.result import ScaleResult
from netadapt_onnx.scaling.train_networks import NetworkTrainer
from netadapt_onnx.scaling.width_record import WidthRecord, read_record
from netadapt_onnx.search.run_directory.run import Run
from netadapt_onnx.search.tables import built_table, loaded_table, table_file
from netadapt_onnx.surgery.obstacles import require_prunable
from netadapt_onnx.surgery.trace import trace
from netadapt_onnx.training.weights import separate_statistics

if TYPE_CHECKING:
    from netadapt_onnx.api.keywords import ScaleKeywords


def scale(model: Source | None = None, data: File | None = None, **options: Unpack[ScaleKeywords]) -> ScaleResult:
    """Find how the widths of `model` follow its size, and build and train networks of the target sizes.

    (NeuralScale; Lee & Lee, CVPR 2020.) Each of `target` ("params=0.25x", "latency=8ms", "macs=2x") makes a model in
    the run directory `out`. The law is searched with `data`, or read from `law` (a `widths.toml`), or fitted to
    recorded widths in `fit` (a CSV file; without a model that is all that is done). With data every model is trained
    from scratch with `seeds` seeds; without, it keeps what weights it can and is not trained. Without labels the
    networks learn the original's answers. Several methods make a model each. `force` accepts a `table` of another
    device.

    Raises:
        NetadaptError: A target is out of reach, a law is of another model, or there is nothing to scale with.

    >>> wider = scale("model.onnx", target="params=2x", method="uniform", out="scaled")
    >>> wider.models[0].widths
    {'conv1': 11, 'conv2': 23}
    """
    settings = from_keywords(ScaleOptions, options)
    if settings.law is not None and settings.fit is not None:
        raise NetadaptError("a law is given twice", hint="give --law or --fit, not both", code="usage")
    record = None if settings.fit is None else read_record(Path(settings.fit))
    if model is None:
        return _fit_alone(record)
    _require_enough(settings, data, has_law=settings.law is not None or record is not None)
    source = open_model(model)
    network, dataset = _prepare(source, data, settings)
    parsed = None if settings.law is None else read_law(Path(settings.law), network.family, list(network.allowed))
    identity = _identity(network, dataset, settings)
    execution = Execution(settings.ep, settings.threads)
    execution.require(agent.environment())
    about = _about(network, dataset, settings, execution)
    directory = tempfile.TemporaryDirectory() if settings.out is None else nullcontext(settings.out)
    with directory as out, Run.open(Path(out), identity, growing={}, resume=settings.resume, about=about) as run:
        progress, log = settings.progress or reporter(), settings.log or unheard
        timed = _table(run, network, settings, execution, progress)
        original = as_given(source, network.trace.folded.proto)
        latency = LatencyMeasurements(run, network, timed, execution, original, log)
        trainer = None if dataset is None else NetworkTrainer(run, network, dataset, settings, progress, log)
        result = ScaleDriver(run, network, settings, parsed, record, trainer, latency, timed).result()
    return _without_files(result) if settings.out is None else result


def _fit_alone(record: WidthRecord | None) -> ScaleResult:
    """The law of a record, where there is no model."""
    if record is None:
        raise NetadaptError(
            "there is nothing to scale", hint="give a model, or recorded widths with --fit", code="usage"
        )
    laws = fit_laws(record)
    return ScaleResult(laws, notes=Law(laws).notes)


def _require_enough(options: ScaleOptions, data: File | None, *, has_law: bool) -> None:
    if not options.targets:
        raise NetadaptError("there is no target", hint="give one, e.g. --target params=0.25x", code="usage")
    if data is None and not has_law and options.methods != ("uniform",):
        raise NetadaptError(
            "there are no data to search with", hint="give --data, or a law with --law or --fit", code="usage"
        )
    if data is not None and options.out is None:
        raise NetadaptError("there is no run directory", hint="name one with -o", code="usage")


def _prepare(source: Model, data: File | None, options: ScaleOptions) -> tuple[ScalableNetwork, Dataset | None]:
    """Trace the model and read the data; both are checked before anything is written."""
    folded = fold_for(separate_statistics(source.proto), options.shapes, data, options.batch_size)
    network = ScalableNetwork(source, trace(folded))
    require_prunable(network.trace, source.path)
    dataset = None if data is None else load_dataset(folded, data)
    if dataset is not None and (options.epochs or options.methods != ("uniform",)):
        from netadapt_onnx.training.trainable import require_trainable

        require_trainable(folded.proto, dataset)
    return network, dataset


def _identity(network: ScalableNetwork, dataset: Dataset | None, options: ScaleOptions) -> dict[str, object]:
    """What decides the result, and what `--resume` compares."""
    return {
        "command": "scale",
        "model": network.source.sha256,
        "data": None if dataset is None else dataset.sha256,
        **{name: None if file is None else file_hash(Path(file)) for name, file in options.files.items()},
        **options.identity(),
    }


def _about(
    network: ScalableNetwork,
    dataset: Dataset | None,
    options: ScaleOptions,
    execution: Execution,
) -> dict[str, object]:
    """What a run records besides its identity: versions, the command that repeats it, samples and device."""
    paths = {"data": None if dataset is None else dataset.path, **options.files}
    names = {option: None if file is None else Path(file).name for option, file in paths.items()}
    return {
        "versions": versions(),
        "command": options.command(network.source.path.name, {**names, **(dataset.options if dataset else {})}),
        "samples": None if dataset is None else dataset.about,
        "device": fingerprint(execution),
    }


def _table(
    run: Run,
    network: ScalableNetwork,
    options: ScaleOptions,
    execution: Execution,
    progress: Progress,
) -> Table | None:
    """The latency table: the one that is named, or built where a target needs one."""
    if options.table is not None:
        return loaded_table(Path(options.table), network.trace, execution, anywhere=options.force)
    if all(budget.resource != "latency" for budget in options.budgets):
        return None
    run.journal.require_unchanged(table_file(run.path))
    built = built_table(table_file(run.path), network.trace, execution, TablePlan(seed=options.seed), progress)
    run.journal.seal(table_file(run.path))
    return built


def _without_files(result: ScaleResult) -> ScaleResult:
    note = "The models were not kept; name a directory with -o to keep them"
    return replace(result, models=tuple(replace(m, model=None) for m in result.models), notes=(*result.notes, note))
