"""`finetune`: train a model as it is, such as one that `prune` made; only its weights change."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Unpack

import onnx

from netadapt_onnx.api.options import FinetuneOptions
from netadapt_onnx.api.source import Source, open_model, prepare_output
from netadapt_onnx.common.options import File, from_keywords
from netadapt_onnx.common.provenance import provenance
from netadapt_onnx.data.dataset import Dataset
from netadapt_onnx.data.evaluate import accuracy, reference_outputs
from netadapt_onnx.data.load_dataset import load_dataset
from netadapt_onnx.data.metrics import AccuracyChange
from netadapt_onnx.data.sample_shapes import fold_for
from netadapt_onnx.errors import NetadaptError, invalid_data
from netadapt_onnx.graph.fold_shapes import fold
from netadapt_onnx.graph.folded_model import FoldedModel, require_runnable
from netadapt_onnx.graph.model import Model, save
from netadapt_onnx.training.validation import Validation, best_of, outcome

if TYPE_CHECKING:
    from netadapt_onnx.api.keywords import FinetuneKeywords
    from netadapt_onnx.training.options import TrainingOptions
    from netadapt_onnx.training.trainer import TrainResult
    from netadapt_onnx.training.views import Views

# A training is evaluated on so many: one standard error of a difference is then about half a point.
VALIDATION_SAMPLES = 2048


@dataclass(frozen=True)
class FinetuneResult:
    """`accuracy` before and after, on `test` if the data have one, else `val`; `seconds` is what training took.

    `lr`: the rate that was used, `lr_test` the range test if one found it (`rates`, smoothed `losses`, `chosen`);
    `evaluations`: accuracies on validation samples by step, of which the best was kept, that before the training first;
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
    evaluations: tuple[Mapping[str, Any], ...] = ()


def finetune(model: Source, data: File, output: File, **options: Unpack[FinetuneKeywords]) -> FinetuneResult:
    """Train `model` on the training split of `data` and write it to `output`.

    With labels it minimises their loss; with a `teacher`, an ONNX model with the same inputs and outputs, it mostly
    learns the teacher's outputs, and needs no labels. `from_scratch` draws all weights anew first. `lr` "auto" finds
    the learning rate by a range test. What validation samples like best of the training is written, the model as it
    was among that. The training's last state is kept in OUTPUT.checkpoint until it is done: killed,
    it goes on with `resume`, to the same bits. Every epoch is a line of NAME.training.jsonl beside the output and, with
    `tensorboard`, in that folder.

    Args:
        model: An ONNX file, or a loaded model.
        data: A path, `FILE.py:FUNCTION` or a `DataSource`.
        output: The file to write.
        options: Those of the command `finetune`; None leaves one out.

    Raises:
        NetadaptError: Operators cannot be trained, the data do not fit, the training diverges, a checkpoint is left
            over and `resume` is not set.

    >>> tuned = finetune("model.onnx", "data.npz", "tuned.onnx", teacher="before.onnx", epochs=1)
    >>> tuned.accuracy.metric, tuned.epochs
    ('top1', 1)
    """
    settings = from_keywords(FinetuneOptions, options)
    source, original = open_model(model), None if settings.teacher is None else open_model(settings.teacher)
    checkpoint, log = _name_files(Path(output), settings, source, data, original)
    return _prepare(source, original, data, settings).run(Path(output), checkpoint, log)


def _name_files(output: Path, options: FinetuneOptions, *inputs: Source | None) -> tuple[Path, Path]:
    """The files of the training's last state until it is done and of a line per epoch; those in the way are refused."""
    prepare_output(output, options.overwrite, *inputs)  # which refuses a folder, that has no name to derive others from
    log = output.with_name(f"{output.name.removesuffix('.onnx')}.training.jsonl")
    checkpoint = output.with_name(f"{output.name}.checkpoint")
    if checkpoint.exists() and not options.resume:
        if not options.overwrite:
            raise NetadaptError(
                f"{checkpoint} is there: a training that was not finished",
                hint="--resume goes on with it, --overwrite starts anew",
                code="exists",
            )
        checkpoint.unlink()
    prepare_output(log, options.overwrite or options.resume, *inputs)
    return checkpoint, log


def _prepare(source: Model, original: Model | None, data: File, options: FinetuneOptions) -> _Finetuning:
    """Read the data and check that there is something to learn from them."""
    folded = fold_for(source.proto, options.shapes, data)
    require_runnable(folded)
    dataset = load_dataset(folded, data)
    if dataset.train.labels is None and original is None and dataset.user.training is None:
        raise invalid_data(f"--data {data}: the train split has no labels", "give the original model as --teacher")
    teacher = None if original is None else fold(original.proto, dict(options.shapes)).proto
    return _Finetuning(source, folded, dataset, teacher, options)


@dataclass(frozen=True)
class _Finetuning:
    """A model, its data and its teacher, ready to be trained; `notes` collects what a user should know."""

    source: Model
    folded: FoldedModel
    dataset: Dataset
    teacher: onnx.ModelProto | None
    options: FinetuneOptions
    notes: list[str] = field(default_factory=list)

    def run(self, output: Path, checkpoint: Path, log: Path) -> FinetuneResult:
        """Train, compare the accuracies before and after, and write the model."""
        split_name, split = self.dataset.final_split
        reference = reference_outputs(split, self.folded.proto if self.teacher is None else self.teacher)
        before = accuracy(self.folded.proto, split, reference=reference)
        for note in self.dataset.notes:
            self._note(note)
        began = time.monotonic()
        trained = self._train(checkpoint, log)
        seconds = time.monotonic() - began
        after = accuracy(trained.proto, split, reference=reference)
        written = save(
            trained.proto,
            output,
            metadata=provenance(self.source.sha256, command="finetune"),
            overwrite=self.options.overwrite,
            planned=self.folded.interface(),
        )
        checkpoint.unlink(missing_ok=True)
        return FinetuneResult(
            AccuracyChange(before.value, after.value, before.metric, split_name),
            seconds,
            written,
            epochs=len(trained.history),
            lr=trained.lr,
            lr_test=None if trained.lr_test is None else asdict(trained.lr_test),
            batch_size=trained.batch_size,
            settings=asdict(trained.settings),
            log=log,
            data=self.dataset.about,
            notes=tuple(self.notes),
            evaluations=tuple(asdict(one) for one in trained.evaluations),
        )

    def _train(self, checkpoint: Path, log: Path) -> TrainResult:
        from netadapt_onnx.training.callbacks import TrainingCallbacks, TrainingLog
        from netadapt_onnx.training.initialise import initialised
        from netadapt_onnx.training.trainer import train

        options, progress = self.options, self.options.progress
        on_step = None if progress is None else lambda step, steps, loss: progress(step, steps, f"loss {loss:.3f}")
        proto = initialised(self.folded.proto, options.seed) if options.from_scratch else self.folded.proto
        tensorboard = None if options.tensorboard is None else Path(options.tensorboard)
        with TrainingLog(log, tensorboard) as training_log:
            trained = train(
                proto,
                self.dataset,
                self._training_options(),
                teacher=self.teacher,
                checkpoint=checkpoint,
                callbacks=TrainingCallbacks(on_step, training_log.epoch, self._note),
                validation=self._validation(proto),
            )
        if trained.evaluations and best_of(trained.evaluations).step == 0:
            tried = outcome(trained.evaluations)
            self._note(f"Fine-tuning did not improve accuracy, so the weights are as they were ({tried})")
        return trained

    def _training_options(self) -> TrainingOptions:
        from netadapt_onnx.training.options import TrainingOptions
        from netadapt_onnx.training.recipe import Recipe

        options, views = self.options, self._views()
        return TrainingOptions(
            epochs=options.epochs,
            lr=options.lr,
            seed=options.seed,
            batch_size=options.batch_size,
            views=views,
            augment=options.augment is True and views.count == 1,
            matches_features=self.teacher is not None and not options.from_scratch,
            averages=True,
            recipe=Recipe(options.optimizer, options.schedule, options.weight_decay),
        )

    def _views(self) -> Views:
        """The views of pictures whose answers a teacher gives once."""
        from netadapt_onnx.training.flip_invariance import is_flip_invariant
        from netadapt_onnx.training.views import Views, automatic_views

        options, train, val = self.options, self.dataset.train, self.dataset.val
        if self.teacher is None or options.augment is False:
            return Views()
        flips, has_labels = is_flip_invariant(self.teacher, val, options.seed), train.labels is not None
        always = options.augment is True
        return automatic_views(train, options.epochs, flips=flips, pairs_agree=has_labels, always=always)

    def _validation(self, proto: onnx.ModelProto) -> Validation:
        """Accuracy on validation samples, of which as many are drawn as tell trainings apart."""
        split = self.dataset.val.sample(VALIDATION_SAMPLES, self.options.seed)
        reference = reference_outputs(split, self.folded.proto if self.teacher is None else self.teacher)

        def on_validation(candidate: onnx.ModelProto) -> float:
            return accuracy(candidate, split, reference=reference).value

        return Validation(on_validation, on_validation(proto))

    def _note(self, line: str) -> None:
        self.notes.append(line)
        if self.options.log is not None:
            self.options.log(line)
