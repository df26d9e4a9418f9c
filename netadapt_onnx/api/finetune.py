"""`finetune`: train a model as it is, such as one that `prune` made; only its weights change."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import onnx

from netadapt_onnx.api.source import Source, open_model, prepare_output
from netadapt_onnx.common.provenance import provenance
from netadapt_onnx.data.dataset import Dataset
from netadapt_onnx.data.evaluate import accuracy, reference_outputs
from netadapt_onnx.data.load_dataset import load_dataset
from netadapt_onnx.data.sample_shapes import fold_for
from netadapt_onnx.errors import NetadaptError
from netadapt_onnx.graph.fold import fold
from netadapt_onnx.graph.folded_model import FoldedModel, require_runnable
from netadapt_onnx.graph.model import Model, save
from netadapt_onnx.graph.shapes import Shapes
from netadapt_onnx.search.result import AccuracyChange
from netadapt_onnx.training.options import TrainingOptions
from netadapt_onnx.training.recipe import Recipe

if TYPE_CHECKING:
    from netadapt_onnx.training.trainer import TrainResult

EPOCHS = 6


@dataclass(frozen=True)
class FinetuneResult:
    """`accuracy` before and after, on `test` if the data have one, else `val`; `seconds` is what training took.

    `lr`: the rate that was used, `lr_test` the range test that found it (`rates`, smoothed `losses`, `chosen`);
    `settings`: how this machine trained (number type, memory layout, replicas); `log`: a JSON line per epoch; `data`:
    samples per split, and whether the validation samples were taken out of the training data.
    """

    accuracy: AccuracyChange
    seconds: float
    model: Path
    epochs: int
    lr: float
    lr_test: Mapping[str, Any] | None
    batch_size: int
    settings: Mapping[str, Any]
    log: Path
    data: Mapping[str, Any]
    notes: tuple[str, ...] = ()


def finetune(
    model: Source,
    data: str | os.PathLike[str],
    output: str | os.PathLike[str],
    *,
    teacher: Source | None = None,
    epochs: int = EPOCHS,
    lr: float | Literal["auto"] = "auto",
    from_scratch: bool = False,
    optimizer: Literal["sgd", "adamw"] = "sgd",
    schedule: Literal["one-cycle", "cosine"] = "one-cycle",
    weight_decay: float | None = None,
    batch_size: int | None = None,
    augment: bool = False,
    seed: int = 0,
    shapes: Shapes | None = None,
    overwrite: bool = False,
    resume: bool = False,
    tensorboard: str | os.PathLike[str] | None = None,
    progress: Callable[[int, int, str], None] | None = None,
    log: Callable[[str], None] | None = None,
) -> FinetuneResult:
    """Train `model` on the training split of `data` and write it to `output`.

    With labels it minimises their loss; with a `teacher`, an ONNX model with the same inputs and outputs, it mostly
    learns the teacher's outputs, and needs no labels. `from_scratch` draws all weights anew first. `lr` "auto" finds
    the learning rate by a range test. Where it stands is kept in OUTPUT.checkpoint until it is done: killed, it goes on
    with `resume`, to the same bits. Every epoch is a line of NAME.training.jsonl beside the output and, with
    `tensorboard`, in that folder.

    Raises NetadaptError for operators it cannot train, data that do not fit, training that diverges, a leftover
    checkpoint without `resume`.

    >>> tuned = finetune("model.onnx", "data.npz", "tuned.onnx", teacher="before.onnx", epochs=1)
    >>> tuned.accuracy.metric, tuned.epochs
    ('top1', 1)
    """
    recipe = Recipe(optimizer, schedule, weight_decay)
    options = TrainingOptions(epochs, None, lr, seed, batch_size, augment, recipe=recipe)
    source, original = open_model(model), None if teacher is None else open_model(teacher)
    files = _name_files(Path(output), overwrite, resume, source, data, original)
    training = _prepare(source, original, data, shapes)
    return training.run(files, options, from_scratch, tensorboard, _Notes(log), progress)


@dataclass(frozen=True)
class _Files:
    """What a fine-tuning writes: the model, its training's last state until it is done, a line per epoch."""

    model: Path
    checkpoint: Path
    log: Path
    overwrite: bool


def _name_files(output: Path, overwrite: bool, resume: bool, *inputs: Source | None) -> _Files:
    """Name the files, and refuse those that exist or are inputs."""
    log = output.with_name(f"{output.name.removesuffix('.onnx')}.training.jsonl")
    checkpoint = output.with_name(f"{output.name}.checkpoint")
    prepare_output(output, overwrite, *inputs)
    if checkpoint.exists() and not resume:
        if not overwrite:
            raise NetadaptError(
                f"{checkpoint} is there: a training that was not finished",
                hint="--resume goes on with it, --overwrite starts anew",
                code="exists",
            )
        checkpoint.unlink()
    prepare_output(log, overwrite or resume, *inputs)
    return _Files(output, checkpoint, log, overwrite)


def _prepare(source: Model, original: Model | None, data: str | os.PathLike[str], shapes: Shapes | None) -> _Training:
    """Read the data and check that there is something to learn from them."""
    folded = fold_for(source.proto, shapes, data)
    require_runnable(folded)
    dataset = load_dataset(folded, data)
    if dataset.train.labels is None and original is None and dataset.user.training is None:
        raise NetadaptError(
            f"--data {data}: the train split has no labels",
            hint="give the original model as --teacher",
            code="invalid-data",
        )
    teacher = None if original is None else fold(original.proto, dict(shapes or {})).proto
    return _Training(source, folded, dataset, teacher)


class _Notes:
    """Collects what a user should know, and logs it at once."""

    def __init__(self, log: Callable[[str], None] | None) -> None:
        self.lines: list[str] = []
        self._log = log

    def add(self, line: str) -> None:
        self.lines.append(line)
        if self._log is not None:
            self._log(line)


@dataclass(frozen=True)
class _Training:
    """A model, its data and its teacher, ready to be trained."""

    source: Model
    folded: FoldedModel
    dataset: Dataset
    teacher: onnx.ModelProto | None

    def run(
        self,
        files: _Files,
        options: TrainingOptions,
        from_scratch: bool,
        tensorboard: str | os.PathLike[str] | None,
        notes: _Notes,
        progress: Callable[[int, int, str], None] | None,
    ) -> FinetuneResult:
        """Train, compare the accuracies before and after, and write the model."""
        split_name, split = self.dataset.final_split
        reference = reference_outputs(split, self.folded.proto if self.teacher is None else self.teacher)
        before = accuracy(self.folded.proto, split, reference=reference)
        for note in self.dataset.notes:
            notes.add(note)
        began = time.monotonic()
        trained = self._train(files, options, from_scratch, tensorboard, notes, progress)
        seconds = time.monotonic() - began
        after = accuracy(trained.proto, split, reference=reference)
        written = save(
            trained.proto,
            files.model,
            metadata=provenance(self.source.sha256, command="finetune"),
            overwrite=files.overwrite,
            planned=self.folded.interface(),
        )
        files.checkpoint.unlink(missing_ok=True)
        return FinetuneResult(
            AccuracyChange(before.value, after.value, before.metric, split_name),
            seconds,
            written,
            epochs=len(trained.history),
            lr=trained.lr,
            lr_test=None if trained.lr_test is None else asdict(trained.lr_test),
            batch_size=trained.batch_size,
            settings=asdict(trained.settings),
            log=files.log,
            data=self.dataset.about,
            notes=tuple(notes.lines),
        )

    def _train(
        self,
        files: _Files,
        options: TrainingOptions,
        from_scratch: bool,
        tensorboard: str | os.PathLike[str] | None,
        notes: _Notes,
        progress: Callable[[int, int, str], None] | None,
    ) -> TrainResult:
        from netadapt_onnx.training.callbacks import TrainingCallbacks
        from netadapt_onnx.training.initialise import initialised
        from netadapt_onnx.training.trainer import train
        from netadapt_onnx.training.training_log import TrainingLog

        proto = initialised(self.folded.proto, options.seed) if from_scratch else self.folded.proto
        on_step = None if progress is None else lambda step, steps, loss: progress(step, steps, f"loss {loss:.3f}")
        with TrainingLog(files.log, None if tensorboard is None else Path(tensorboard)) as training_log:
            return train(
                proto,
                self.dataset,
                options,
                teacher=self.teacher,
                checkpoint=files.checkpoint,
                callbacks=TrainingCallbacks(on_step, training_log.epoch, notes.add),
            )
