"""`adapt`: a model, a budget and some inputs in; a smaller model that meets the budget out."""

from __future__ import annotations

import hashlib
import os
import platform
import tempfile
from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

import numpy as np
import onnx

from netadapt_onnx import __version__
from netadapt_onnx.errors import NetadaptError
from netadapt_onnx.model import Model, load
from netadapt_onnx.profilers.session import Execution, fingerprint
from netadapt_onnx.profilers.table import Table
from netadapt_onnx.search.adaptation import Adaptation
from netadapt_onnx.search.arguments import FINAL_EPOCHS, SHORT_TERM_LR, Arguments, Evaluate, Rank
from netadapt_onnx.search.budget import Budget, parse_budgets
from netadapt_onnx.search.candidates import Progress
from netadapt_onnx.search.latency import LatencyGauge, built_table, loaded_table
from netadapt_onnx.search.netadapt import Select
from netadapt_onnx.search.proposal import Goal, Proposer
from netadapt_onnx.search.result import AdaptResult, DryRun, Planned
from netadapt_onnx.search.run import Run
from netadapt_onnx.search.schedule import DEFAULT_ITERATIONS, Schedule
from netadapt_onnx.search.subject import Predictor, Subject, prepare
from netadapt_onnx.surgery import Criterion

Source = str | os.PathLike[str] | Model
Data = str | os.PathLike[str] | None
Budgets = str | Sequence[str] | Mapping[str, str | float]


def adapt(
    model: Source,
    data: Data,
    budget: Budgets,
    out: str | os.PathLike[str],
    *,
    table: str | os.PathLike[str] | None = None,
    resume: bool = False,
    criterion: str | Criterion = "l2",
    rank: Rank = "reconstruct",
    select: Select = "ratio",
    init_reduction_ratio: float = 0.025,
    decay: float = 0.96,
    reduction_of: Literal["initial", "current"] = "initial",
    step: int = 8,
    short_term: int | None = None,
    short_term_lr: float = SHORT_TERM_LR,
    final_epochs: int = FINAL_EPOCHS,
    max_iterations: int = DEFAULT_ITERATIONS,
    seed: int = 0,
    ep: str = "cpu",
    threads: int = 1,
    shapes: Mapping[str, tuple[int, ...]] | None = None,
    batch_size: int = 1,
    evaluate: Evaluate | None = None,
    progress: Progress | None = None,
    log: Callable[[str], None] | None = None,
) -> AdaptResult:
    """Shrink `model` until every budget holds, with the least accuracy lost (NetAdapt, Yang et al., ECCV 2018).

    `budget`: `"latency=0.6x"`, several such texts, or a mapping. `out` is the run's directory; everything is kept in
    it, and `resume` continues from it whatever happened. `evaluate` judges models (higher is better) instead of the
    data, which may then be None. Other arguments are those of the command `adapt`.

    Raises NetadaptError for whatever it cannot judge: unreadable or unsuitable models and data, budgets that mean
    nothing, a directory that is not this run's.
    """
    arguments = Arguments(
        budget=tuple(map(str, parse_budgets(budget))),
        criterion=criterion,
        rank=rank,
        select=select,
        init_reduction_ratio=init_reduction_ratio,
        decay=decay,
        reduction_of=reduction_of,
        step=step,
        short_term=short_term,
        short_term_lr=short_term_lr,
        final_epochs=final_epochs,
        max_iterations=max_iterations,
        seed=seed,
        ep=ep,
        threads=threads,
        evaluate=evaluate,
        shapes=tuple((shapes or {}).items()),
        batch_size=batch_size,
    )
    from threadpoolctl import threadpool_limits

    subject = _prepared(model, data, arguments)
    given = None if table is None else Path(table)
    progress, log = progress or _quiet, log or _quiet
    identity = {
        "model": subject.model.sha256,
        "data": None if subject.data is None else subject.data.sha256,
        "table": _sha256(given),
        **arguments.identity(),
    }
    limit = _latency_budget(arguments)
    execution = Execution(ep, threads)
    _ = execution.provider  # a missing one is said before anything is written
    loaded = None if given is None else loaded_table(given, subject.trace, execution)
    # One thread each for many proposals at a time is faster than many threads for one, and repeats bit for bit.
    with (
        threadpool_limits(1, "blas"),
        Run.open(
            Path(out), identity, growing={"max_iterations": max_iterations}, resume=resume, about=_about(execution)
        ) as run,
    ):
        gauge = None
        if limit is not None or loaded is not None:
            measured = loaded or built_table(run.path, subject.trace, execution, seed, progress)
            gauge = LatencyGauge(run, subject.trace, measured, execution, limit)
            if limit is not None:
                subject = subject.aligned(measured.stairs.alignment)
        return Adaptation(run, subject, arguments, gauge, progress, log).result()


def dry_run(
    model: Source,
    data: Data,
    budget: Budgets,
    *,
    table: str | os.PathLike[str] | None = None,
    progress: Progress | None = None,
    **arguments: Any,
) -> DryRun:
    """What the first iteration of `adapt` with these arguments would try: proposals and their predicted resources.

    Trains and writes nothing. A latency budget without a table measures one, and forgets it.
    """
    asked = Arguments(budget=tuple(map(str, parse_budgets(budget))), **arguments)
    subject = _prepared(model, data, asked)
    execution = Execution(asked.ep, asked.threads)
    latency = None
    if table is not None:
        latency = loaded_table(Path(table), subject.trace, execution)
    elif _latency_budget(asked) is not None:
        with tempfile.TemporaryDirectory() as folder:
            latency = built_table(Path(folder), subject.trace, execution, asked.seed, progress or _quiet)
    if latency is not None and _latency_budget(asked) is not None:
        subject = subject.aligned(latency.stairs.alignment)
    return _first_iteration(subject, asked, latency)


def _first_iteration(subject: Subject, asked: Arguments, table: Table | None) -> DryRun:
    predict = Predictor(subject.trace, latency=None if table is None else table.predict)
    current = predict(subject.widths)
    original = current | {"size": float(subject.model.size_bytes)}
    limits = {b.resource: b.limit(original[b.resource]) for b in parse_budgets(asked.budget)}
    driver = max(limits, key=lambda name: current[name] / limits[name])
    notes = ()
    if all(current[name] <= limit for name, limit in limits.items()):
        return DryRun(driver, limits[driver], current, (), (), ("the model is within its budget already",))
    schedule = Schedule(asked.init_reduction_ratio, asked.decay, asked.reduction_of)
    target = schedule.target(1, current[driver], current[driver], limits[driver])
    proposals = Proposer(subject.ladders, predict).cuts(subject.widths, Goal(driver, target, current, limits))
    planned = tuple(Planned(p.group, (subject.widths[p.group], p.channels), p.resources) for p in proposals)
    proposing = {p.group for p in proposals}
    return DryRun(driver, target, current, planned, tuple(n for n in subject.widths if n not in proposing), notes)


def _prepared(model: Source, data: Data, arguments: Arguments) -> Subject:
    loaded = model if isinstance(model, Model) else load(model)
    return prepare(loaded, None if data is None else Path(data), arguments)


def _latency_budget(arguments: Arguments) -> Budget | None:
    return next((b for b in parse_budgets(arguments.budget) if b.resource == "latency"), None)


def _about(execution: Execution) -> dict[str, Any]:
    """What a run is made with and on: versions and the device."""
    import onnxruntime

    versions = {
        "python": platform.python_version(),
        "netadapt_onnx": __version__,
        "onnx": onnx.__version__,
        "onnxruntime": onnxruntime.__version__,
        "numpy": np.__version__,
        "torch": version("torch") if find_spec("torch") else None,
    }
    return {"versions": versions, "device": fingerprint(execution)}


def _sha256(file: Path | None) -> str | None:
    if file is None:
        return None
    if not file.is_file():
        raise NetadaptError(f"{file}: no such file", code="missing-file")
    return hashlib.sha256(file.read_bytes()).hexdigest()


def _quiet(*_: object) -> None:
    """Neither progress nor log."""
