"""The trainings of a run of `scale`: before a descent, for magnitudes, and from scratch with several seeds."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import msgspec
import numpy as np
import onnx

from netadapt_onnx.common.provenance import provenance
from netadapt_onnx.data.dataset import Dataset, Split
from netadapt_onnx.data.evaluate import accuracy, reference_outputs
from netadapt_onnx.graph.model import load, save
from netadapt_onnx.scaling.network import ScalableNetwork
from netadapt_onnx.scaling.options import ScaleOptions
from netadapt_onnx.scaling.result import AccuracySpread
from netadapt_onnx.scaling.width_record import WidthRecord
from netadapt_onnx.search.run_directory.run import Run
from netadapt_onnx.training.settings import Settings

MAGNITUDES_FILE = "magnitudes.onnx"


@dataclass(frozen=True)
class NetworkTrainer:
    """Trains networks of a run; what a killed run had finished is read from its journal and files."""

    run: Run
    network: ScalableNetwork
    dataset: Dataset
    options: ScaleOptions
    progress: Callable[[int, int, str], None]
    log: Callable[[str], None]

    @property
    def notes(self) -> tuple[str, ...]:
        """What a user should know about the data."""
        if self._teacher is None:
            return tuple(self.dataset.notes)
        return (
            *self.dataset.notes,
            "The training samples have no labels, so the networks learn the outputs of the original model",
        )

    def initialised(self, proto: onnx.ModelProto, seed: int | None = None) -> onnx.ModelProto:
        """The same network with weights drawn from a seed, by default the run's."""
        from netadapt_onnx.training.initialise import initialised

        return initialised(proto, self.options.seed if seed is None else seed)

    def briefly_trained(self, key: str, proto: onnx.ModelProto) -> onnx.ModelProto:
        """A network trained for the longest warm-up, from which the magnitudes of filters are read."""
        file = self.run.path / MAGNITUDES_FILE
        if not self.run.journal.is_sealed(file):
            key = f"{key}/magnitudes"
            model = self._train(key, key, proto, max(self.options.warmup_epochs), self.options.seed)
            save(model, file, overwrite=True)
            self.run.journal.seal(file)
        return load(file).proto

    def descend(
        self, key: str, proto: onnx.ModelProto, *, warm_up_epochs: int, share: float, sparing: bool = False
    ) -> WidthRecord:
        """Train and prune a network (`descent.py`); the whole record is one entry of the journal.

        Args:
            key: The name of this descent in the journal.
            proto: The network with its initial weights.
            warm_up_epochs: How long it is trained before filters are removed.
            share: The share of all filters to remove.
            sparing: Whether groups keep their last filters while others go on losing theirs.
        """

        def record() -> dict[str, object]:
            from netadapt_onnx.scaling.descent import DescentSchedule, descend

            options = self.options
            schedule = DescentSchedule(
                warm_up_epochs, lr=options.lr, pruning_lr=options.lr / 10, share=share, sparing=sparing
            )
            schedule = replace(schedule, batches=options.batches or schedule.usual_batches(len(self.dataset.train)))
            self.log(f"descent {key}: {warm_up_epochs} epochs of training, then filters are removed")
            widths = descend(
                self.network.traced(proto),
                self.network.params,
                self.dataset,
                schedule,
                self._settings(key, proto, schedule.batch_size),
                teacher=self._teacher,
                seed=options.seed,
                progress=self.progress,
            )
            return {"names": widths.names, "widths": widths.widths.tolist(), "tau": widths.tau.tolist()}

        entry = self.run.once(f"descent/{key}", record)
        rows = np.array(entry["widths"], float).reshape(-1, len(entry["names"]))
        return WidthRecord(tuple(entry["names"]), rows, np.array(entry["tau"], float))

    def train_with_seeds(self, name: str, proto: onnx.ModelProto, folder: Path) -> tuple[AccuracySpread, Path]:
        """Train a network from scratch with every seed.

        Args:
            name: The network's name in the journal.
            proto: The network; its weights are drawn anew.
            folder: Where its models are written.

        Returns:
            The accuracies of all seeds, and the file of the model that is best on validation data.
        """
        split, test = self.dataset.final_split
        seeds = range(self.options.seed, self.options.seed + self.options.seeds)
        scores = [
            self.run.once(f"trained/{name}/{seed}", partial(self._train_seed, name, proto, folder, seed, test))
            for seed in seeds
        ]
        best = _seed_file(folder, seeds[int(np.argmax([score["val"] for score in scores]))])
        self.run.journal.require_sealed(best)
        model = save_model(self.run, self.network, load(best).proto, folder / "model.onnx")
        values = [score["reported"] for score in scores]
        std = float(np.std(values, ddof=1)) if len(values) > 1 else 0.0
        return AccuracySpread(float(np.mean(values)), std, scores[-1]["metric"], split, tuple(values)), model

    def original_accuracy(self) -> AccuracySpread:
        """The accuracy of the network that is scaled, on the samples that the others are scored on."""
        split, test = self.dataset.final_split
        value, metric = self.run.once(
            "accuracy/original", lambda: list(self._accuracy(self.network.trace.folded.proto, test))
        )
        return AccuracySpread(value, 0.0, metric, split, (value,))

    def _train_seed(
        self, name: str, proto: onnx.ModelProto, folder: Path, seed: int, test: Split
    ) -> Mapping[str, object]:
        initial = self.initialised(proto, seed)
        model = self._train(name, f"{name}, seed {seed}", initial, self.options.epochs, seed)
        save_model(self.run, self.network, model, _seed_file(folder, seed))
        (val, _), (reported, metric) = self._accuracy(model, self.dataset.val), self._accuracy(model, test)
        return {"val": val, "reported": reported, "metric": metric}

    def _train(self, key: str, title: str, proto: onnx.ModelProto, epochs: int, seed: int) -> onnx.ModelProto:
        from netadapt_onnx.training.callbacks import TrainingCallbacks
        from netadapt_onnx.training.options import TrainingOptions
        from netadapt_onnx.training.trainer import train

        if not epochs:
            return proto

        def report(step: int, steps: int, loss: float) -> None:
            self.progress(step, steps, f"training {title}: loss {loss:.3f}")

        options = TrainingOptions(epochs=epochs, lr=self.options.lr, seed=seed, settings=self._settings(key, proto))
        callbacks = TrainingCallbacks(progress=report)
        return train(proto, self.dataset, options, teacher=self._teacher, callbacks=callbacks).proto

    def _settings(self, key: str, proto: onnx.ModelProto, batch_size: int | None = None) -> Settings:
        """The settings with which this machine trains a network fastest; timed once, so that a resumed run repeats."""
        from netadapt_onnx.training.choose_settings import choose_settings

        chosen = self.run.once(
            f"settings/{key}", lambda: choose_settings(proto, self.dataset, batch_size=batch_size, log=self.log)
        )
        return msgspec.convert(chosen, Settings)

    @property
    def _teacher(self) -> onnx.ModelProto | None:
        return self.network.trace.folded.proto if self.dataset.train.labels is None else None

    def _accuracy(self, proto: onnx.ModelProto, split: Split) -> tuple[float, str]:
        reference = reference_outputs(split, self.network.trace.folded.proto)
        score = accuracy(proto, split, reference=reference)
        return score.value, score.metric


def save_model(run: Run, network: ScalableNetwork, proto: onnx.ModelProto, file: Path) -> Path:
    """Write a model with its provenance into a run's directory, and remember the hash of its file."""
    metadata = provenance(network.source.sha256, command="scale")
    written = save(proto, file, metadata=metadata, overwrite=True, planned=network.trace.folded.interface())
    run.journal.seal(written)
    return written


def _seed_file(folder: Path, seed: int) -> Path:
    return folder / f"seed-{seed}.onnx"
