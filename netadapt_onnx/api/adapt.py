"""`adapt`: a model, a budget and some inputs in; a smaller model that meets the budget out."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Unpack

from netadapt_onnx.api.live_report import live_report
from netadapt_onnx.api.source import Source, open_model
from netadapt_onnx.common.budget import budget_texts
from netadapt_onnx.common.options import File, from_keywords
from netadapt_onnx.common.parallel import spare_threads
from netadapt_onnx.common.progress import reporter, unheard
from netadapt_onnx.common.provenance import versions
from netadapt_onnx.common.resources import SEARCHED
from netadapt_onnx.profilers.execution import fingerprint
from netadapt_onnx.search import dry_run as planning
from netadapt_onnx.search.context import Notes, SearchEnvironment
from netadapt_onnx.search.driver import SearchDriver
from netadapt_onnx.search.executors.opening import opened_executor
from netadapt_onnx.search.idle_options import idle_options
from netadapt_onnx.search.open_budget_checks import Instruments, open_budget_checks, open_instruments, table_hashes
from netadapt_onnx.search.options import AdaptOptions
from netadapt_onnx.search.prepared_model import PreparedModel, prepare
from netadapt_onnx.search.presets import WITHOUT_DATA
from netadapt_onnx.search.recorded_options import recorded_in_one_spelling
from netadapt_onnx.search.result import AdaptResult, DryRun
from netadapt_onnx.search.run_directory.run import Run
from netadapt_onnx.search.target_devices import device_records
from netadapt_onnx.training.settings import cores

if TYPE_CHECKING:
    from netadapt_onnx.api.keywords import AdaptKeywords

Data = File | None
Budgets = str | Sequence[str] | Mapping[str, str | float]

# Threads for a search's own work: matrices of a layer with 4,096 inputs take 400 MB in each.
MOST_THREADS = 4


def adapt(
    model: Source, data: Data, budget: Budgets, out: str | os.PathLike[str], **options: Unpack[AdaptKeywords]
) -> AdaptResult:
    """Shrink `model` until every budget holds, with the least accuracy lost (NetAdapt, Yang et al., ECCV 2018).

    Args:
        model: An ONNX file, or a loaded model.
        data: What to search, train and evaluate with: a path, `FILE.py:FUNCTION`, or a `DataSource`; None where
            `evaluate` judges.
        budget: `"latency=0.6x"`, several such texts, or a mapping.
        out: The run's directory. Everything is kept in it, and `resume` continues from it whatever happened.
        options: Those of the command `adapt`; None leaves one out. An `evaluate` of your own judges models (higher is
            better) in the place of the data. `max_time` ("30m", or seconds, over all resumes) stops with the best
            model so far. `executor` never changes the result.

    Returns:
        The result for the tightest budget, and of all targets in `models`.

    Raises:
        NetadaptError: Whatever cannot be judged: unreadable or unsuitable models and data, budgets that mean nothing,
            a directory that is not this run's.

    >>> result = adapt("model.onnx", "data.npz", "macs=0.6x", "run", step=4, final_epochs=1)
    >>> result.met, result.groups
    (True, {'conv1': (8, 4), 'conv2': (16, 16)})
    """
    settings = _options(budget, data, options)
    prepared = _prepared(model, data, settings)
    if prepared.data is not None and settings.trains:
        from netadapt_onnx.training.trainable import require_trainable

        require_trainable(prepared.trace.folded.proto, prepared.data)
    return _adapted(prepared, settings, Path(out))


def dry_run(
    model: Source, data: Data, budget: Budgets, *, tables_beside: Path | None = None, **options: Unpack[AdaptKeywords]
) -> DryRun:
    """What the first iteration of `adapt` with these arguments would try: proposals and their predicted resources.

    It trains nothing. A latency budget without a table measures one, which is kept beside `tables_beside`, the
    directory of a run to come, as NAME.table.jsonl; None forgets it.
    """
    settings = _options(budget, data, options)
    return planning.dry_run(_prepared(model, data, settings), settings, settings.progress or reporter(), tables_beside)


def _options(budget: Budgets, data: Data, keywords: Mapping[str, Any]) -> AdaptOptions:
    usual = WITHOUT_DATA if data is None else {}
    chosen = {name: value for name, value in keywords.items() if value is not None}
    return from_keywords(AdaptOptions, {"budget": budget_texts(budget, SEARCHED), **usual, **chosen})


def _prepared(model: Source, data: Data, options: AdaptOptions) -> PreparedModel:
    return prepare(open_model(model), data, options)


def _adapted(prepared: PreparedModel, settings: AdaptOptions, out: Path) -> AdaptResult:
    """Open what the run needs, and the run itself, and search."""
    from threadpoolctl import threadpool_limits

    identity = _identity(prepared, settings)
    budgets = settings.targets[-1]
    progress, log = settings.progress or reporter(), settings.log or unheard
    workers = opened_executor(settings.executor, cores(), settings.gpus, settings.job_timeout_s)
    # One thread each for many proposals at a time is faster than many threads for one, and repeats bit for bit.
    with (
        threadpool_limits(1, "blas"),
        workers,
        # What cannot be reached or used is said before anything is written.
        open_instruments(settings, prepared, budgets, out, log) as instruments,
        live_report(out, log, is_on=settings.live) as update_report,
        Run.open(
            out,
            identity,
            growing={"max_iterations": settings.max_iterations},
            resume=settings.resume,
            about=_about(prepared, settings, instruments),
            max_time_s=settings.max_time_s,
            respell=recorded_in_one_spelling,
        ) as run,
    ):
        update_report()
        environment = SearchEnvironment(run, settings, instruments.execution, progress, log, Notes(log), update_report)
        for note in () if prepared.data is None else (*idle_options(settings), *prepared.data.notes):
            environment.notes.add(note)
        checks, aligned = open_budget_checks(environment, prepared, instruments)
        with spare_threads(min(cores(), MOST_THREADS)):
            return SearchDriver(environment, aligned, checks, workers).result()


def _identity(prepared: PreparedModel, options: AdaptOptions) -> dict[str, Any]:
    """All that decides the result of a run: what `--resume` compares."""
    command = options.resource_command
    return {
        "model": prepared.model.sha256,
        "data": None if prepared.data is None else prepared.data.sha256,
        "resource_command": command if isinstance(command, str | None) else "a function",
        "table": table_hashes(options),
        **options.identity(),
    }


def _about(prepared: PreparedModel, options: AdaptOptions, instruments: Instruments) -> dict[str, Any]:
    """What a run records when it starts and never compares."""
    return {
        "versions": versions(),
        "command": options.command(prepared.model.path, prepared.data),
        "samples": None if prepared.data is None else prepared.data.about,
        "device": fingerprint(instruments.execution),
        "devices": device_records(instruments.devices, instruments.execution),
    }
