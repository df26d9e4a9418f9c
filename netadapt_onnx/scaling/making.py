"""A scaled network made: widths for a target, the model at those widths, trained from scratch, judged, measured."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import msgspec
import numpy as np
import onnx

from netadapt_onnx.common.budget import Budget
from netadapt_onnx.common.provenance import provenance, stored_bytes
from netadapt_onnx.data.dataset import Dataset, Split
from netadapt_onnx.data.evaluate import accuracy, outputs
from netadapt_onnx.errors import NetadaptError
from netadapt_onnx.graph.cost import cost
from netadapt_onnx.graph.fold import fold
from netadapt_onnx.graph.memory_limit import memory_bytes
from netadapt_onnx.graph.model import Model, load, save
from netadapt_onnx.graph.original_file import AsGiven
from netadapt_onnx.graph.runtime import random_inputs
from netadapt_onnx.profilers.estimate import estimate
from netadapt_onnx.profilers.execution import Execution
from netadapt_onnx.profilers.statistics import Ratio
from netadapt_onnx.profilers.table.predict import Table
from netadapt_onnx.profilers.timing import TimingPlan, ratio
from netadapt_onnx.scaling.generate import AllowedWidths, Widths, nearest, widest
from netadapt_onnx.scaling.generate import Path as WidthPath
from netadapt_onnx.scaling.methods import Ground
from netadapt_onnx.scaling.record import Record
from netadapt_onnx.scaling.result import Method, Options, ScaledModel, Spread
from netadapt_onnx.search.latency_check import BRIEF_S, BRIEF_SESSIONS, CAREFUL_S, CAREFUL_SESSIONS
from netadapt_onnx.search.normalising import Measured, gained
from netadapt_onnx.search.prepared_model import Predictor
from netadapt_onnx.search.run_directory.run import Run
from netadapt_onnx.surgery.criteria.selection import select
from netadapt_onnx.surgery.resize import resize
from netadapt_onnx.surgery.trace import Trace
from netadapt_onnx.training.settings import Settings

# A latency target is met within this share of itself, or after so many networks measured.
NEAR = 0.015
ATTEMPTS = 4
# A network whose weights take a larger share of the memory can be neither trained nor run beside another.
MEMORY_SHARE = 0.1


@dataclass
class Making:
    """Everything a run needs to make its models. `notes` are for the user."""

    run: Run
    source: Model
    found: Trace
    dataset: Dataset | None
    options: Options
    table: Table | None
    execution: Execution
    progress: Callable[[int, int, str], None]
    log: Callable[[str], None]
    given: AsGiven
    notes: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        extra = stored_bytes(provenance(self.source.sha256, command="scale"))
        self._predict = Predictor(self.found, extra, {} if self.table is None else {"latency": self.table.predict})
        self._uncut = self._predict({g.name: g.channels for g in self.found.prunable})
        self._normalising = Measured(self.run, "latency", self.given, self.found.folded.proto, self._beside)
        self.notes += () if self.dataset is None else self.dataset.notes
        if self.dataset is not None and self.dataset.train.labels is None:
            self.notes.append(
                "the training samples have no labels: gates and training learn the original model's answers"
            )

    def fresh(self, proto: onnx.ModelProto, seed: int | None = None) -> onnx.ModelProto:
        """The same network with weights drawn from a seed, by default the run's."""
        from netadapt_onnx.training.initialise import initialised

        return initialised(proto, self.options.seed if seed is None else seed)

    def briefly_trained(self, key: str, proto: onnx.ModelProto) -> onnx.ModelProto:
        """Trained for the longest warm-up: what magnitudes are read from."""
        file = self.run.path / "magnitudes.onnx"
        if not self.run.journal.is_sealed(file):
            key = f"{key}/magnitudes"
            made = self._trained(key, key, proto, max(self.options.warmup_epochs), self.options.seed)
            save(made, file, overwrite=True)
            self.run.journal.seal(file)
        return load(file).proto

    def descended(
        self, proto: onnx.ModelProto, ground: Ground, warm_up: int, share: float, sparing: bool, key: str
    ) -> Record:
        """One descent's record, from this initialised model."""
        from netadapt_onnx.scaling.descent import Schedule, descend

        assert self.dataset is not None
        options = self.options
        schedule = Schedule(
            warm_up, lr=options.lr, pruning_lr=options.lr / 10, batches=options.batches, share=share, sparing=sparing
        )
        self.log(f"descent {key}: {warm_up} epochs, then filters go")
        return descend(
            ground.traced(proto),
            ground.params,
            self.dataset,
            schedule,
            self._settings(key, proto, schedule.batch_size),
            teacher=self._teacher,
            seed=self.options.seed,
            progress=self.progress,
        )

    def _settings(self, key: str, proto: onnx.ModelProto, batch_size: int | None = None) -> Settings:
        """What this machine trains such a network fastest with; timed once, so that a resumed run trains alike."""
        from netadapt_onnx.training.trainer import choose_settings

        assert self.dataset is not None
        dataset = self.dataset
        chosen = self.run.once(
            f"settings/{key}", lambda: choose_settings(proto, dataset, batch_size=batch_size, say=self.log)
        )
        return msgspec.convert(chosen, Settings)

    @property
    def _teacher(self) -> onnx.ModelProto | None:
        unlabelled = self.dataset is not None and self.dataset.train.labels is None
        return self.found.folded.proto if unlabelled else None

    def made(
        self,
        budget: Budget,
        path: WidthPath,
        start: float,
        allowed: Mapping[str, AllowedWidths],
        method: Method,
        warm_up: int | None,
    ) -> ScaledModel:
        """The largest network along `path` within a target; for latency, within it as measured."""
        name = str(budget) if method == self.options.methods[0] else f"{budget}-{method}"
        if len(self.options.warmup_epochs) > 1 and warm_up is not None:
            name += f"-warmup{warm_up}"
        name = re.sub(r"[^\w.=-]", "_", name)
        limit = budget.limit(self._original(budget.resource))
        share = None
        if budget.resource == "latency":
            widths, share = self._at_latency(name, budget, path, start, allowed, limit)
        else:
            widths = widest(path, self._cost(budget), limit, start, str(budget))
        proto = self.at(widths)
        spread, file = self._judged(name, proto)
        counted = cost(proto, fold(proto, self._shapes).shapes)
        latency_ms = None
        if share is not None:
            latency_ms = share * self._reference_ms
        elif spread is not None:
            share, latency_ms = self._timed(name, widths)
        resources = counted.to_resources(None if file is None else file.stat().st_size, latency_ms)
        return ScaledModel(str(budget), method, warm_up, resources, share, widths, spread, file)

    @property
    def _shapes(self) -> dict[str, tuple[int, ...]]:
        return {name: shape for name, (shape, _) in self.found.folded.specs.items()}

    @property
    def _reference_ms(self) -> float:
        """The time of the file as given, by the table's clock."""
        assert self.table is not None
        return self.table.latency_ms.median_ms / self._gain

    @property
    def _gain(self) -> float:
        """What normalising alone leaves of the time of the file as given."""
        ratio, note = self._normalising.ratio, self._normalising.note
        if ratio is not None:
            note = gained("latency", self.source.path.name, ratio.median, ratio.ci95)
        self.notes += [note] if note and note not in self.notes else []
        return 1.0 if ratio is None else ratio.median

    def _original(self, resource: str) -> float:
        """What the file as given costs, as predictions have it."""
        return self._uncut[resource] / (self._gain if resource == "latency" else 1.0)

    def at(self, widths: Mapping[str, int]) -> onnx.ModelProto:
        """The model at these widths: what is left keeps its weights, what is new is drawn."""
        return resize(self.found, select(self.found, widths))

    def _cost(self, budget: Budget) -> Callable[[Widths], float]:
        most = MEMORY_SHARE * memory_bytes()

        def counted(widths: Widths) -> float:
            amounts = self._predict(widths)
            if amounts["size"] > most:
                raise NetadaptError(
                    f"target {budget}: a network of {amounts['size'] / 1e9:.1f} GB is too much for this machine",
                    hint="ask for less",
                    code="target",
                )
            return amounts[budget.resource]

        return counted

    def _at_latency(
        self,
        name: str,
        budget: Budget,
        path: WidthPath,
        start: float,
        allowed: Mapping[str, AllowedWidths],
        limit: float,
    ) -> tuple[Widths, float]:
        """Widths whose measured time is nearest the target, and their share of the original's time.

        The table proposes; what is measured beside the original corrects what the table is asked for next.
        """
        counted, aim, tried = self._cost(budget), limit, {}
        for _ in range(ATTEMPTS):
            widths = nearest(widest(path, counted, aim, start, str(budget)), allowed, counted, aim, NEAR)
            key = f"latency/{name}/{'-'.join(map(str, widths.values()))}"
            if key in tried:
                break
            found = msgspec.convert(self.run.once(key, partial(self._measured, widths)), Ratio)
            share, ms = (estimate(found, None, relative=relative).value for relative in (True, False))
            amount = share * self._original("latency") if budget.relative else ms
            tried[key] = (abs(amount / limit - 1), widths, share)
            self.log(f"{name}: {amount:.4g} ms measured for {limit:.4g}")
            if tried[key][0] <= NEAR:
                break
            aim = counted(widths) * limit / amount
        _, widths, share = min(tried.values(), key=lambda entry: entry[0])
        return widths, share

    def _timed(self, name: str, widths: Widths) -> tuple[float, float]:
        """A trained network's share of the original's time, and ms; of all networks beside one time of the original."""
        found = msgspec.convert(
            self.run.once(f"latency/{name}", partial(self._measured, widths, BRIEF_SESSIONS, BRIEF_S)), Ratio
        )
        original = self.run.once("latency/original", lambda: found.reference.median_ms)
        share = estimate(found, None, relative=True).value
        return share, share * (self._reference_ms if self.table is not None else original)

    def _measured(self, widths: Widths, sessions: int = CAREFUL_SESSIONS, seconds: float = CAREFUL_S) -> Ratio:
        return self._turns(self.at(widths), self._normalising.reference, sessions, seconds)

    def _beside(self, proto: onnx.ModelProto, reference: onnx.ModelProto) -> Ratio:
        """The normalised model beside the file as given, carefully, once in a run."""
        return msgspec.convert(self.run.once("latency/normalised", partial(self._turns, proto, reference)), Ratio)

    def _turns(
        self,
        proto: onnx.ModelProto,
        reference: onnx.ModelProto,
        sessions: int = CAREFUL_SESSIONS,
        seconds: float = CAREFUL_S,
    ) -> Ratio:
        inputs = random_inputs(self.found.folded.specs)
        return ratio(proto, reference, inputs, self.execution, TimingPlan(sessions=sessions, time_cap_s=seconds))

    def _judged(self, name: str, proto: onnx.ModelProto) -> tuple[Spread | None, Path | None]:
        """Train with every seed; the model that is best on validation data is kept as the target's."""
        folder = self.run.path / "models" / name
        folder.mkdir(parents=True, exist_ok=True)
        metadata = provenance(self.source.sha256, command="scale")
        if self.dataset is None:
            return None, self._saved(proto, folder / "model.onnx", metadata)
        split, held = self.dataset.reported
        reported: list[float] = []
        validated: list[float] = []
        metric = ""
        for seed in range(self.options.seed, self.options.seed + self.options.seeds):
            file = folder / f"seed-{seed}.onnx"

            def judge(seed: int = seed, file: Path = file) -> Mapping[str, object]:
                made = self._trained(name, f"{name}, seed {seed}", self.fresh(proto, seed), self.options.epochs, seed)
                self._saved(made, file, metadata)
                assert self.dataset is not None
                found = self._accuracy(made, self.dataset.val), self._accuracy(made, held)
                return {"val": found[0][0], "reported": found[1][0], "metric": found[1][1]}

            kept = self.run.once(f"trained/{name}/{seed}", judge)
            validated.append(kept["val"])
            reported.append(kept["reported"])
            metric = kept["metric"]
        best = folder / f"seed-{self.options.seed + int(np.argmax(validated))}.onnx"
        self.run.journal.require_sealed(best)
        final = self._saved(load(best).proto, folder / "model.onnx", metadata)
        std = float(np.std(reported, ddof=1)) if len(reported) > 1 else 0.0
        return Spread(float(np.mean(reported)), std, metric, split, tuple(reported)), final

    def _saved(self, proto: onnx.ModelProto, file: Path, metadata: Mapping[str, str]) -> Path:
        """Write a model of this run, and remember what its file holds."""
        planned = self.found.folded.interface()
        written = save(proto, file, metadata=metadata, overwrite=True, planned=planned)
        self.run.journal.seal(written)
        return written

    def _trained(self, key: str, said: str, proto: onnx.ModelProto, epochs: int, seed: int) -> onnx.ModelProto:
        from netadapt_onnx.training.trainer import train

        assert self.dataset is not None
        if not epochs:
            return proto

        def told(step: int, steps: int, loss: float) -> None:
            self.progress(step, steps, f"training {said}: loss {loss:.3f}")

        made = train(
            proto,
            self.dataset,
            teacher=self._teacher,
            epochs=epochs,
            lr=self.options.lr,
            seed=seed,
            settings=self._settings(key, proto),
            progress=told,
        )
        return made.proto

    def _accuracy(self, proto: onnx.ModelProto, split: Split) -> tuple[float, str]:
        reference = outputs(self.found.folded.proto, split) if split.metric == "agreement" else None
        found = accuracy(proto, split, reference=reference)
        return found.value, found.metric
