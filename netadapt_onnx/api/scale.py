"""`scale`: how an architecture's widths should be distributed at any size, and networks of the sizes asked for."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx

from netadapt_onnx.common.files import write_atomically
from netadapt_onnx.common.progress import Progress, reporter
from netadapt_onnx.common.provenance import file_hash, versions
from netadapt_onnx.data.load import dataset_for
from netadapt_onnx.data.sample_shapes import fold_for
from netadapt_onnx.errors import NetadaptError
from netadapt_onnx.graph.fold import fold
from netadapt_onnx.graph.model import Model, load
from netadapt_onnx.graph.original_file import as_given
from netadapt_onnx.profilers import agent
from netadapt_onnx.profilers.execution import Execution, fingerprint
from netadapt_onnx.profilers.table.predict import Table
from netadapt_onnx.profilers.units import family
from netadapt_onnx.scaling.generate import AllowedWidths, allowed_widths, uniform
from netadapt_onnx.scaling.generate import Path as WidthPath
from netadapt_onnx.scaling.law import Law, read_law, written
from netadapt_onnx.scaling.law import fit as fitted
from netadapt_onnx.scaling.making import Making
from netadapt_onnx.scaling.methods import Descent, Ground, baseline, law_of, neuralscale, path_of
from netadapt_onnx.scaling.plots import drawn
from netadapt_onnx.scaling.record import Record, read_record
from netadapt_onnx.scaling.result import (
    BATCHES,
    EPOCHS,
    ITERATIONS,
    LEARNING_RATE,
    PLOTS,
    WARM_UP_EPOCHS,
    Method,
    Options,
    ScaledModel,
    ScaleResult,
)
from netadapt_onnx.search.prepared_model import Predictor
from netadapt_onnx.search.run_directory.run import Run, write_json
from netadapt_onnx.search.tables import built_table, loaded_table, table_file
from netadapt_onnx.surgery.obstacles import require_prunable
from netadapt_onnx.surgery.trace import Trace, trace
from netadapt_onnx.training.separate_statistics import separate_statistics

LAW_FILE, RESULT_FILE = "widths.toml", "result.json"
Source = str | os.PathLike[str] | Model


def scale(
    model: Source | None = None,
    data: str | os.PathLike[str] | None = None,
    *,
    target: str | Sequence[str] = (),
    out: str | os.PathLike[str] | None = None,
    method: Method | Sequence[Method] = "neuralscale",
    iterations: int = ITERATIONS,
    warmup_epochs: Sequence[int] = (WARM_UP_EPOCHS,),
    batches: int = BATCHES,
    epochs: int = EPOCHS,
    lr: float = LEARNING_RATE,
    seeds: int = 1,
    law: str | os.PathLike[str] | None = None,
    fit: str | os.PathLike[str] | None = None,
    table: str | os.PathLike[str] | None = None,
    force: bool = False,
    resume: bool = False,
    seed: int = 0,
    ep: str = "cpu",
    threads: int = 1,
    shapes: Mapping[str, tuple[int, ...]] | None = None,
    batch_size: int = 1,
    progress: Progress | None = None,
    log: Callable[[str], None] | None = None,
) -> ScaleResult:
    """Find how the widths of `model` follow its size, and build and train networks of the target sizes.

    (NeuralScale; Lee & Lee, CVPR 2020.) Each of `target` ("params=0.25x", "latency=8ms", "macs=2x") makes a model in
    the run directory `out`. The law is searched with `data`, or read from `law` (a `widths.toml`), or fitted to
    recorded widths in `fit` (a CSV file; without a model that is all that is done). With data every model is trained
    from scratch with `seeds` seeds; without, it keeps what weights it can and is not trained. Unlabelled data teach the
    original's answers. Several methods make a model each. `force` takes a `table` of another device.
    Raises NetadaptError for targets out of reach and for laws of other models.

    >>> wider = scale("model.onnx", target="params=2x", method="uniform", out="scaled")
    >>> wider.models[0].widths
    {'conv1': 11, 'conv2': 23}
    """
    texts = (target,) if isinstance(target, str) else tuple(target)
    methods = (method,) if isinstance(method, str) else tuple(method)
    options = Options(texts, methods, iterations, tuple(warmup_epochs), batches, epochs, lr, seeds, seed, ep, threads)
    if law is not None and fit is not None:
        raise NetadaptError("a law and a record to fit one to", hint="give --law or --fit", code="usage")
    record = None if fit is None else read_record(Path(fit))
    if model is None:
        if record is None:
            raise NetadaptError("nothing to scale", hint="give a model, or recorded widths as --fit", code="usage")
        return ScaleResult(fitted(record), notes=Law(fitted(record)).notes)
    if not texts:
        raise NetadaptError("no target", hint="give one, e.g. --target params=0.25x", code="usage")
    if data is None and law is None and record is None and methods != ("uniform",):
        raise NetadaptError("no data to search with", hint="give --data, --law or --fit", code="usage")
    if data is not None and out is None:
        raise NetadaptError("no run directory", hint="name one with -o", code="usage")
    source = model if isinstance(model, Model) else load(model)
    folded = fold_for(separate_statistics(source.proto), shapes, data, batch_size)
    found = trace(folded)
    require_prunable(found, source.path)
    dataset = None if data is None else dataset_for(folded, data)
    if dataset is not None and (epochs or methods != ("uniform",)):
        from netadapt_onnx.training.trainable import require_trainable

        require_trainable(folded.proto, dataset)
    allowed = allowed_widths(found.prunable)
    given = None
    if law is not None:
        given = read_law(Path(law), family(found.folded.proto), list(allowed))
    identity = {
        "command": "scale",
        "model": source.sha256,
        "data": None if dataset is None else dataset.sha256,
        **{name: None if file is None else file_hash(Path(file)) for name, file in
           {"law": law, "fit": fit, "table": table}.items()},
        **options.identity(),
    }  # fmt: skip
    execution = Execution(ep, threads)
    execution.require(agent.environment())
    files = {"data": None if dataset is None else dataset.path, "law": law, "fit": fit, "table": table}
    given_by_name = {option: None if file is None else Path(file).name for option, file in files.items()}
    about = {
        "versions": versions(),
        "command": options.command(source.path.name, {**given_by_name, **(dataset.options if dataset else {})}),
        "samples": None if dataset is None else dataset.about,
        "device": fingerprint(execution),
    }
    with _running(out, identity, resume, about) as run:
        progress, log = progress or reporter(), log or _quiet
        timed = _table(run, found, options, execution, table, force, progress)
        own = as_given(source, found.folded.proto)
        making = Making(run, source, found, dataset, options, timed, execution, progress, log, own)
        result = _Scaling(making, given, record).result()
    if out is None:
        note = "the models were not kept: name a directory with -o"
        return replace(result, models=tuple(replace(m, model=None) for m in result.models), notes=(*result.notes, note))
    return result


@contextmanager
def _running(
    out: str | os.PathLike[str] | None, identity: Mapping[str, object], resume: bool, about: Mapping[str, object]
) -> Iterator[Run]:
    """The run directory; one that is forgotten where none is named."""
    if out is not None:
        with Run.open(Path(out), identity, growing={}, resume=resume, about=about) as run:
            yield run
        return
    with tempfile.TemporaryDirectory() as folder, Run.open(Path(folder), identity, growing={}, resume=False) as run:
        yield run


def _table(
    run: Run,
    found: Trace,
    options: Options,
    execution: Execution,
    table: str | os.PathLike[str] | None,
    force: bool,
    progress: Progress,
) -> Table | None:
    if table is not None:
        return loaded_table(Path(table), found, execution, anywhere=force)
    if all(budget.resource != "latency" for budget in options.budgets):
        return None
    run.journal.require_unchanged(table_file(run.path))
    built = built_table(run.path, found, execution, options.seed, progress)
    run.journal.seal(table_file(run.path))
    return built


class _Scaling:
    """One run of `scale`: the laws or baselines, then a model for every target."""

    def __init__(self, making: Making, law: Law | None, record: Record | None) -> None:
        self._making = making
        self._warm_up: int | None = None
        self._descent: Descent | None = None
        self._law = Law(())
        self._given = law
        self._record = record
        predict = Predictor(making.found)
        self._ground = Ground(
            found=making.found,
            allowed=allowed_widths(making.found.prunable),
            family=family(making.found.folded.proto),
            params=lambda widths: predict(dict(widths))["params"],
            at=making.at,
            fresh=making.fresh,
            trained=making.briefly_trained,
            traced=lambda proto: trace(fold(proto, {n: s for n, (s, _) in making.found.folded.specs.items()})),
            descend=self._descend,
        )

    def result(self) -> ScaleResult:
        """Everything that was asked for; what a killed run had done is not done again."""
        options = self._making.options
        models: list[ScaledModel] = []
        for method in options.methods:
            searched = self._given is None and self._record is None and method != "uniform"
            for warm_up in options.warmup_epochs if searched else (None,):
                self._warm_up = warm_up
                key = method if warm_up is None else f"{method}/{warm_up}"
                paths = self._paths(method, key)
                for budget in options.budgets:
                    allowed = self._allowed(budget.resource)
                    path, start = paths(allowed)
                    models.append(self._making.made(budget, path, start, allowed, method, warm_up))
        notes = [*self._law.notes, *self._making.notes] if self._law.groups else list(self._making.notes)
        folder = self._making.run.path
        notes += drawn(folder / PLOTS, models, self._law, self._descent)
        result = ScaleResult(self._law.groups, tuple(models), self._making.run.seconds(), tuple(dict.fromkeys(notes)))
        there = tuple(replace(m, model=None if m.model is None else m.model.relative_to(folder)) for m in models)
        write_json(folder / RESULT_FILE, replace(result, models=there))
        for file in (*sorted((folder / PLOTS).glob("*.json")), folder / RESULT_FILE):
            self._making.run.journal.seal(file)
        return result

    def _paths(self, method: Method, key: str) -> Callable[[Mapping[str, AllowedWidths]], tuple[WidthPath, float]]:
        """What gives, for the widths that are allowed, a method's path and the size to begin at."""
        if method != "neuralscale":
            base = baseline(self._ground, key, method)
            return lambda allowed: (uniform(base, allowed), 1.0)
        if self._given is not None:
            law = self._given
        elif self._record is not None:
            law = law_of(self._ground, self._record)
            self._descent = Descent(law, (), (self._record.named(self._ground.widths),))
        else:
            self._descent = neuralscale(self._ground, key, self._making.options.iterations)
            law = self._descent.law
        self._law = law
        files = [LAW_FILE]
        if self._warm_up is not None and len(self._making.options.warmup_epochs) > 1:
            files.append(LAW_FILE.replace(".", f"-warmup{self._warm_up}."))
        for name in files:
            write_atomically(self._making.run.path / name, written(law).encode())
        return lambda allowed: path_of(law, self._ground, allowed)

    def _allowed(self, resource: str) -> Mapping[str, AllowedWidths]:
        """For latency only widths on the edges of the table's steps."""
        if resource != "latency" or self._making.table is None:
            return self._ground.allowed
        return allowed_widths(self._making.found.prunable, self._making.table.staircase.alignment)

    def _descend(self, key: str, proto: onnx.ModelProto, share: float, sparing: bool) -> Record:
        """A descent, journalled whole."""

        def widths() -> dict[str, object]:
            record = self._making.descended(proto, self._ground, self._warm_up or 0, share, sparing, key)
            return {"names": record.names, "widths": record.widths.tolist(), "tau": record.tau.tolist()}

        kept = self._making.run.once(f"descent/{key}", widths)
        rows = np.array(kept["widths"], float).reshape(-1, len(kept["names"]))
        return Record(tuple(kept["names"]), rows, np.array(kept["tau"], float))


def _quiet(*_: object) -> None:
    """No log."""
