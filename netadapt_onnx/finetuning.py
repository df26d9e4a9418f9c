"""Train a model as it is, such as one that `prune` made; only its weights change."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from netadapt_onnx.errors import NetadaptError
from netadapt_onnx.folding import fold, require_runnable
from netadapt_onnx.inspection import Shapes, Source, opened, prepare_output
from netadapt_onnx.model import save
from netadapt_onnx.search.provenance import provenance
from netadapt_onnx.search.result import AccuracyChange
from netadapt_onnx.training.evaluate import accuracy, outputs
from netadapt_onnx.training.loading import dataset_for

EPOCHS = 6


@dataclass(frozen=True)
class FinetuneResult:
    """`accuracy` before and after, on `test` if the data have one, else `val`; `seconds` is what training took."""

    accuracy: AccuracyChange
    seconds: float
    model: Path


def finetune(
    model: Source,
    data: str | os.PathLike[str],
    output: str | os.PathLike[str],
    *,
    teacher: Source | None = None,
    epochs: int = EPOCHS,
    lr: float | None = None,
    seed: int = 0,
    shapes: Shapes | None = None,
    overwrite: bool = False,
    progress: Callable[[int, int, str], None] | None = None,
) -> FinetuneResult:
    """Train `model` on the training split of `data` and write it to `output`.

    With labels it minimises cross-entropy; with a `teacher`, an ONNX model with the same inputs and outputs, it mostly
    learns the teacher's outputs, and needs no labels. `lr` None chooses by the kind of network. Raises NetadaptError
    for operators it cannot train, data that do not fit, or training that diverges.
    """
    source = opened(model)
    original = None if teacher is None else opened(teacher)
    prepare_output(Path(output), overwrite, source, data, original)
    folded = fold(source.proto, dict(shapes or {}))
    require_runnable(folded)
    dataset = dataset_for(folded, data)
    name, held = dataset.reported
    own = dataset.own
    if dataset.train.labels is None and teacher is None and (own is None or own.training is None):
        raise NetadaptError(
            f"--data {data} has no labels", hint="give the original model as --teacher", code="invalid-data"
        )
    taught = None if original is None else fold(original.proto, dict(shapes or {})).proto
    reference = None
    if held.labels is None and held.measure is None:
        reference = outputs(folded.proto if taught is None else taught, held)
    before = accuracy(folded.proto, held, reference=reference)
    from netadapt_onnx.training.trainer import train

    said = None if progress is None else lambda step, steps, loss: progress(step, steps, f"loss {loss:.3f}")
    began = time.monotonic()
    trained = train(folded.proto, dataset, teacher=taught, epochs=epochs, lr=lr, seed=seed, progress=said)
    seconds = time.monotonic() - began
    after = accuracy(trained.proto, held, reference=reference)
    written = save(trained.proto, output, metadata=provenance(source, command="finetune"), overwrite=overwrite)
    return FinetuneResult(AccuracyChange(before.value, after.value, before.metric, name), seconds, written)
