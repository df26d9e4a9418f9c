"""Train a model as it is, such as one that `prune` made; only its weights change."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import onnx

from netadapt_onnx.api.source import Source, open_model, prepare_output
from netadapt_onnx.common.provenance import provenance
from netadapt_onnx.data.dataset import Split
from netadapt_onnx.data.evaluate import accuracy, outputs
from netadapt_onnx.data.load import dataset_for
from netadapt_onnx.data.sample_shapes import fold_for
from netadapt_onnx.errors import NetadaptError
from netadapt_onnx.graph.fold import fold
from netadapt_onnx.graph.folded_model import require_runnable
from netadapt_onnx.graph.model import save
from netadapt_onnx.graph.shapes import Shapes
from netadapt_onnx.search.result import AccuracyChange

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
    ema: float = 0.0,
    patience: int | None = None,
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
    the learning rate by a range test. `ema` is the decay of an average of the weights, which is then the result;
    `patience` ends the training after so many epochs without a better validation score and returns the best epoch's
    weights. Where it stands is kept in OUTPUT.checkpoint until it is done: killed, it goes on with `resume`, to the
    same bits. Every epoch is a line of NAME.training.jsonl beside the output and, with `tensorboard`, in that folder.

    Raises NetadaptError for operators it cannot train, data that do not fit, training that diverges, a leftover
    checkpoint without `resume`.

    >>> tuned = finetune("model.onnx", "data.npz", "tuned.onnx", teacher="before.onnx", epochs=1)
    >>> tuned.accuracy.metric, tuned.epochs
    ('top1', 1)
    """
    source = open_model(model)
    original = None if teacher is None else open_model(teacher)
    target = Path(output)
    prepare_output(target, overwrite, source, data, original)
    checkpoint = _checkpoint(target, overwrite, resume)
    record = target.with_name(f"{target.name.removesuffix('.onnx')}.training.jsonl")
    prepare_output(record, overwrite or resume, source, data, original)
    folded = fold_for(source.proto, shapes, data)
    require_runnable(folded)
    dataset = dataset_for(folded, data)
    name, held = dataset.reported
    own = dataset.own
    if dataset.train.labels is None and teacher is None and (own is None or own.training is None):
        raise NetadaptError(
            f"--data {data}: the train split has no labels",
            hint="give the original model as --teacher",
            code="invalid-data",
        )
    taught = None if original is None else fold(original.proto, dict(shapes or {})).proto

    def judge(split: Split) -> Callable[[onnx.ModelProto], Any]:
        reference = None
        if split.labels is None and split.measure is None:
            reference = outputs(folded.proto if taught is None else taught, split)
        return lambda proto: accuracy(proto, split, reference=reference)

    reported = judge(held)
    before = reported(folded.proto)
    from netadapt_onnx.training.initialise import initialised
    from netadapt_onnx.training.recipe import Recipe
    from netadapt_onnx.training.trainer import train
    from netadapt_onnx.training.training_log import TrainingLog

    recipe = Recipe(optimizer, schedule, weight_decay, ema=ema, patience=patience)
    validated = judge(dataset.val) if patience is not None else None
    notes: list[str] = []

    def say(text: str) -> None:
        notes.append(text)
        if log is not None:
            log(text)

    for note in dataset.notes:
        say(note)
    began = time.monotonic()
    with TrainingLog(record, None if tensorboard is None else Path(tensorboard)) as lines:
        trained = train(
            initialised(folded.proto, seed) if from_scratch else folded.proto,
            dataset,
            teacher=taught,
            epochs=epochs,
            lr=lr,
            seed=seed,
            batch_size=batch_size,
            augment=augment,
            recipe=recipe,
            checkpoint=checkpoint,
            score=None if validated is None else lambda proto: float(validated(proto).value),
            progress=None if progress is None else lambda step, steps, loss: progress(step, steps, f"loss {loss:.3f}"),
            told=lines.epoch,
            say=say,
        )
    seconds = time.monotonic() - began
    if len(trained.history) < epochs and trained.history:
        say(f"stopped after {len(trained.history)} of {epochs} epochs: no better validation score in {patience}")
    after = reported(trained.proto)
    metadata = provenance(source.sha256, command="finetune")
    written = save(trained.proto, target, metadata=metadata, overwrite=overwrite, planned=folded.interface())
    checkpoint.unlink(missing_ok=True)
    return FinetuneResult(
        AccuracyChange(before.value, after.value, before.metric, name),
        seconds,
        written,
        epochs=len(trained.history),
        lr=trained.lr,
        lr_test=None if trained.lr_test is None else asdict(trained.lr_test),
        batch_size=trained.batch_size,
        settings=asdict(trained.settings),
        log=record,
        data=dataset.about,
        notes=tuple(notes),
    )


def _checkpoint(output: Path, overwrite: bool, resume: bool) -> Path:
    """Where the training stands until it is done."""
    path = output.with_name(f"{output.name}.checkpoint")
    if path.exists() and not resume:
        if not overwrite:
            raise NetadaptError(
                f"{path} is there: a training that was not finished",
                hint="--resume goes on with it, --overwrite starts anew",
                code="exists",
            )
        path.unlink()
    return path
