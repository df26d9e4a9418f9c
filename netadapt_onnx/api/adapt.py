"""`adapt`: a model, a budget and some inputs in; a smaller model that meets the budget out."""

from __future__ import annotations

import math
import os
import tempfile
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Literal

from netadapt_onnx.common.budget import budget_texts
from netadapt_onnx.common.progress import Progress, reporter
from netadapt_onnx.common.provenance import file_hash, versions
from netadapt_onnx.common.resources import CUSTOM, ENERGY, LATENCY, SEARCHED
from netadapt_onnx.graph.model import Model, load
from netadapt_onnx.graph.original_file import as_given
from netadapt_onnx.profilers.device import Device
from netadapt_onnx.profilers.devices.local import LocalDevice
from netadapt_onnx.profilers.devices.opening import LOCAL
from netadapt_onnx.profilers.execution import Execution, fingerprint
from netadapt_onnx.profilers.int8_kernels import choose_quantisation
from netadapt_onnx.profilers.quantize import Precision
from netadapt_onnx.profilers.random_widths import RandomWidthModel
from netadapt_onnx.profilers.table.best_counts import best_counts
from netadapt_onnx.profilers.table.original_time import time_original
from netadapt_onnx.profilers.table.predict import Table
from netadapt_onnx.search.calibration import execution_of
from netadapt_onnx.search.channel_choices import DEFAULT_STEP, Floors, Steps
from netadapt_onnx.search.driver import SearchDriver
from netadapt_onnx.search.executors.opening import IN_PROCESS, JOB_TIMEOUT_S, Gpus, opened_executor
from netadapt_onnx.search.executors.protocol import Executor
from netadapt_onnx.search.first_iteration import first_iteration
from netadapt_onnx.search.latency_check import MeasuredLatency, PredictedLatency
from netadapt_onnx.search.measured_check import MeasuredResource, Value, fitted, values
from netadapt_onnx.search.netadapt import Select
from netadapt_onnx.search.options import (
    CRITERION,
    FINAL_EPOCHS,
    SHORT_TERM_LR,
    Arguments,
    Evaluate,
    Rank,
    Strategy,
    seconds_of,
)
from netadapt_onnx.search.prepared_model import Predictor, PreparedModel, prepare
from netadapt_onnx.search.result import AdaptResult, DryRun
from netadapt_onnx.search.run_directory.run import Run
from netadapt_onnx.search.schedule import DEFAULT_ITERATIONS
from netadapt_onnx.search.tables import TABLE_S, built_table, loaded_table, reference_times_ms, spent_ms, table_file
from netadapt_onnx.search.target_device import (
    Devices,
    Tables,
    TargetDevice,
    about,
    named_devices,
    named_tables,
    opened_places,
)
from netadapt_onnx.search.time_limit import TABLE_SHARE
from netadapt_onnx.surgery.criteria.scores import Criterion
from netadapt_onnx.training.settings import cores

Source = str | os.PathLike[str] | Model
Data = str | os.PathLike[str] | None
Budgets = str | Sequence[str] | Mapping[str, str | float]


def adapt(
    model: Source,
    data: Data,
    budget: Budgets,
    out: str | os.PathLike[str],
    *,
    table: Tables = None,
    force: bool = False,
    device: Devices = LOCAL,
    python: str = "python3",
    keep: bool = False,
    perf_test: str | os.PathLike[str] | None = None,
    resource_command: str | Value | None = None,
    resume: bool = False,
    criterion: str | Criterion | None = None,
    strategy: Strategy = "netadapt",
    rank: Rank = "reconstruct",
    select: Select = "ratio",
    init_reduction_ratio: float = 0.025,
    decay: float = 0.96,
    init_reduction: str | float | None = None,
    reduction_of: Literal["initial", "current"] = "initial",
    step: Steps = DEFAULT_STEP,
    min_channels: int = 1,
    freeze: Sequence[str] = (),
    floor: Floors = (),
    finalists: int = 0,
    prune_small: bool = False,
    allow_block_removal: bool = False,
    short_term: int | None = None,
    short_term_lr: float = SHORT_TERM_LR,
    freeze_front: bool = False,
    final_epochs: int = FINAL_EPOCHS,
    augment: bool = False,
    max_iterations: int = DEFAULT_ITERATIONS,
    max_time: str | float | None = None,
    min_accuracy: float | None = None,
    save_interval: int = 1,
    seed: int = 0,
    ep: str = "cpu",
    ep_options: Mapping[str, str] | None = None,
    ep_library: str | None = None,
    threads: int = 1,
    deploy: Precision = "float",
    shapes: Mapping[str, tuple[int, ...]] | None = None,
    batch_size: int = 1,
    evaluate: Evaluate | None = None,
    executor: str | Executor = IN_PROCESS,
    gpus: Gpus = None,
    job_timeout: str | float = JOB_TIMEOUT_S,
    progress: Progress | None = None,
    log: Callable[[str], None] | None = None,
) -> AdaptResult:
    """Shrink `model` until every budget holds, with the least accuracy lost (NetAdapt, Yang et al., ECCV 2018).

    `budget`: `"latency=0.6x"`, several such texts, or a mapping. `out` is the run's directory; everything is kept in
    it, and `resume` continues from it whatever happened. `evaluate` judges models (higher is better) instead of the
    data, which may then be None. `max_time` ("30m", or seconds, over all resumes) stops with the best model so far;
    `min_accuracy` is never gone below; of every `save_interval` iterations one keeps its model. `executor` does the
    proposals (`local`, `local:N`, `ray`, `ray:ADDRESS`, or your own) and never changes the result. `force` takes
    tables of other devices; what is measured here corrects them. Other arguments are those of the command `adapt`.

    Raises NetadaptError for whatever it cannot judge: unreadable or unsuitable models and data, budgets that mean
    nothing, a directory that is not this run's.

    >>> result = adapt("model.onnx", "data.npz", "macs=0.6x", "run", step=4, final_epochs=1)
    >>> result.met, result.groups
    (True, {'conv1': (8, 4), 'conv2': (16, 16)})
    """
    devices = named_devices(device)
    arguments = Arguments(
        budget=budget_texts(budget, SEARCHED),
        device=_told(devices),
        criterion=criterion or CRITERION[strategy],
        strategy=strategy,
        rank=rank,
        select=select,
        init_reduction_ratio=init_reduction_ratio,
        decay=decay,
        init_reduction=init_reduction,
        reduction_of=reduction_of,
        step=step,
        min_channels=min_channels,
        freeze=tuple(freeze),
        floor=floor,
        finalists=finalists,
        prune_small=prune_small,
        allow_block_removal=allow_block_removal,
        short_term=short_term,
        short_term_lr=short_term_lr,
        freeze_front=freeze_front,
        final_epochs=final_epochs,
        augment=augment,
        max_iterations=max_iterations,
        max_time_s=None if max_time is None else seconds_of(max_time),
        min_accuracy=min_accuracy,
        save_interval=save_interval,
        seed=seed,
        ep=ep,
        ep_options=tuple((ep_options or {}).items()),
        ep_library=ep_library,
        threads=threads,
        deploy=deploy,
        evaluate=evaluate,
        shapes=tuple((shapes or {}).items()),
        batch_size=batch_size,
    )
    from threadpoolctl import threadpool_limits

    subject = _prepared(model, data, arguments)
    if subject.data is not None and arguments.trains:
        from netadapt_onnx.training.trainable import require_trainable

        require_trainable(subject.trace.folded.proto, subject.data)
    tables = named_tables(table, devices)
    progress, log = progress or reporter(), log or _quiet
    hashes = {name: file_hash(file) for name, file in tables.items()}
    identity = {
        "model": subject.model.sha256,
        "data": None if subject.data is None else subject.data.sha256,
        "resource_command": resource_command if isinstance(resource_command, str | None) else "a function",
        "table": hashes.get(LATENCY) if hashes.keys() <= {LATENCY} else hashes,
        **arguments.identity(),
    }
    budgets = arguments.targets[-1]
    execution = execution_of(arguments, subject)
    own = values(budgets, resource_command, subject.trace, execution)
    workers = opened_executor(executor, cores(), gpus, seconds_of(job_timeout, "--job-timeout"))
    # One thread each for many proposals at a time is faster than many threads for one, and repeats bit for bit.
    with (
        threadpool_limits(1, "blas"),
        workers,
        # What cannot be reached or used is said before anything is written.
        opened_places(
            devices,
            tables,
            budgets,
            execution,
            purpose=Path(out),
            python=python,
            keep=keep,
            perf_test=_path(perf_test),
            log=log,
        ) as places,
    ):
        execution = choose_quantisation(
            execution, [*(p.device for p in places), *([LocalDevice()] if ENERGY in own else [])]
        )
        loaded = {p.resource: _loaded(p, subject, execution, force) for p in places if p.table is not None}
        command = arguments.command(subject.model.path, subject.data)
        recorded = {
            "versions": versions(),
            "command": command,
            "samples": None if subject.data is None else subject.data.about,
            "device": fingerprint(execution),
            "devices": about(places, execution),
        }
        with Run.open(
            Path(out),
            identity,
            growing={"max_iterations": max_iterations},
            resume=resume,
            about=recorded,
            max_time_s=arguments.max_time_s,
        ) as run:
            gauges: dict[str, MeasuredLatency] = {}
            notes = [] if subject.data is None else list(subject.data.notes)
            for note in notes:
                log(note)
            given = as_given(subject.model, subject.trace.folded.proto) if places or own else None
            for place in places:
                limited = {} if math.isinf(run.left_s()) else {"time_cap_s": min(TABLE_S, TABLE_SHARE * run.left_s())}
                run.journal.require_unchanged(table_file(run.path, place.resource))
                measured = loaded.get(place.resource) or built_table(
                    run.path, subject.trace, execution, seed, progress, place.device, place.resource, **limited
                )
                run.journal.seal(table_file(run.path, place.resource))
                if isinstance(measured, Table) and run.left_s() < math.inf and measured.reference.stopped != "done":
                    rest = f"{len(measured.end_to_end)} of {measured.header.models} versions"
                    notes.append(f"the table was built from {rest}: {measured.reference.stopped}, for --max-time")
                    log(notes[-1])
                cautions = measured.notes if isinstance(measured, Table) else ()
                for caution in cautions:  # the table and the run are of one busy machine: that is said once
                    log(caution)
                limit = next((b for b in budgets if b.resource == place.resource), None)
                gauge = PredictedLatency if place.device is None else MeasuredLatency
                gauges[place.resource] = gauge(
                    run,
                    subject.trace,
                    measured,
                    execution,
                    limit,
                    place.resource,
                    place.device,
                    given,
                    # A table from another day tells nothing of how fast the device is today.
                    usual_ms=() if place.resource in loaded else reference_times_ms(measured),
                    log=None if cautions else log,
                )
                if limit is not None:
                    subject = subject.aligned(
                        measured.staircase.alignment, partial(best_counts, measured, subject.trace)
                    )
            for resource, value in own.items():
                limit = next(b for b in budgets if b.resource == resource)
                fit = fitted(subject.trace, resource, value, seed, run.once)
                # A program may look at whatever no runtime sees.
                seen = as_given(subject.model, subject.trace.folded.proto, always=True) if resource == CUSTOM else given
                gauges[resource] = MeasuredResource(run, subject.trace, fit, value, limit, resource, seen)
            return SearchDriver(run, subject, arguments, gauges, workers, progress, log, execution, notes).result()


def _path(given: str | os.PathLike[str] | None) -> Path | None:
    return None if given is None else Path(given)


def _loaded(place: TargetDevice, subject: PreparedModel, execution: Execution, force: bool) -> Table:
    assert place.table is not None
    anywhere = force or place.device is None
    execution = choose_quantisation(execution, [place.device])  # its own, also where a run's devices need another
    return loaded_table(place.table, subject.trace, execution, place.environment, anywhere=anywhere)


def _told(devices: Mapping[str, str | Device]) -> tuple[str, ...]:
    """Devices as users name them."""
    names = {resource.partition("@")[2]: d if isinstance(d, str) else d.name for resource, d in devices.items()}
    return tuple(f"{name}={device}" if name else device for name, device in names.items())


def dry_run(
    model: Source,
    data: Data,
    budget: Budgets,
    *,
    table: Tables = None,
    force: bool = False,
    device: Devices = LOCAL,
    python: str = "python3",
    keep: bool = False,
    perf_test: str | os.PathLike[str] | None = None,
    resource_command: str | Value | None = None,
    progress: Progress | None = None,
    **arguments: Any,
) -> DryRun:
    """What the first iteration of `adapt` with these arguments would try: proposals and their predicted resources.

    Trains and writes nothing. A latency budget without a table measures one, and forgets it.
    """
    devices = named_devices(device)
    arguments["criterion"] = arguments.get("criterion") or CRITERION[arguments.get("strategy", "netadapt")]
    asked = Arguments(budget=budget_texts(budget, SEARCHED), device=_told(devices), **arguments)
    budgets = asked.targets[0]
    progress = progress or reporter()
    subject = _prepared(model, data, asked)
    execution = execution_of(asked, subject)
    predicted, spent = {}, {}
    gains: dict[str, float] = {}
    normalised = RandomWidthModel(subject.trace.folded.proto, subject.trace.folded.shapes)
    given = as_given(subject.model, normalised.proto)
    with (
        tempfile.TemporaryDirectory() as folder,
        opened_places(
            devices,
            named_tables(table, devices),
            budgets,
            execution,
            purpose=subject.model.path,
            python=python,
            keep=keep,
            perf_test=_path(perf_test),
        ) as places,
    ):
        execution = choose_quantisation(execution, [place.device for place in places])
        for place in places:
            if place.table is not None:
                found = _loaded(place, subject, execution, force)
            else:
                found = built_table(
                    Path(folder), subject.trace, execution, asked.seed, progress, place.device, place.resource
                )
            predicted[place.resource] = found.predict
            spent[place.resource] = partial(spent_ms, found)
            ratio, _ = time_original(found, given, normalised, execution, place.device)
            gains[place.resource] = ratio.median if ratio is not None and ratio.differs else 1.0
            if any(b.resource == place.resource for b in budgets):
                subject = subject.aligned(found.staircase.alignment, partial(best_counts, found, subject.trace))
    for resource, value in values(budgets, resource_command, subject.trace, execution).items():
        fit = fitted(subject.trace, resource, value, asked.seed, lambda _, make: make())
        predicted[resource] = fit.predict
        seen = as_given(subject.model, normalised.proto, always=resource == CUSTOM)
        whole = fit.original if seen.proto is None else value(seen.proto)
        gains[resource] = fit.original / whole if whole else 1.0
    return first_iteration(subject, asked, Predictor(subject.trace, 0, predicted, subject.branches, spent), gains)


def _prepared(model: Source, data: Data, arguments: Arguments) -> PreparedModel:
    loaded = model if isinstance(model, Model) else load(model)
    return prepare(loaded, data, arguments)


def _quiet(*_: object) -> None:
    """No log."""
