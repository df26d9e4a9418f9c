"""Training: a proto in, the same proto with better weights out."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
import onnx
import torch

from netadapt_onnx.common.progress import stage
from netadapt_onnx.data.dataset import Dataset, Labels, Split
from netadapt_onnx.errors import NetadaptError, one_line
from netadapt_onnx.graph.runtime import Arrays
from netadapt_onnx.graph.weightless import without_weights
from netadapt_onnx.training import batchnorm
from netadapt_onnx.training.augment import augmented
from netadapt_onnx.training.checkpoint import Checkpoint
from netadapt_onnx.training.distillation import MOST_FORESEEN, Teacher, teaching_of
from netadapt_onnx.training.loop import DivergedError, Epoch, Loop, Progress, Schedule, scored
from netadapt_onnx.training.lr_range_test import RangeTest, range_test
from netadapt_onnx.training.memory import BATCH_SIZE, Footprint, halved, in_whole_batches, out_of_memory
from netadapt_onnx.training.memory import batch_size as fitting_batch
from netadapt_onnx.training.mirroring import with_flips
from netadapt_onnx.training.ops.registry import registered_outside
from netadapt_onnx.training.placement import gpu_dtypes, repeatable, require
from netadapt_onnx.training.recipe import ADAMW_SHARE, Recipe
from netadapt_onnx.training.replicas import DistillationTargets, Fetch, Replicas, one_thread, pieces_of, tensors
from netadapt_onnx.training.settings import Settings, choose, described
from netadapt_onnx.training.task import Task
from netadapt_onnx.training.torch_graph import TorchGraph
from netadapt_onnx.training.trainable import trainable_network
from netadapt_onnx.training.trial_process import Subject
from netadapt_onnx.training.trials import Trials
from netadapt_onnx.training.user_training import trained_by

# 780 steps of a ResNet-20 that lost half its filters: 0.02 and 0.05 are equal, 0.15 loses 0.6 points.
LEARNING_RATE = 0.05
# Networks without BatchNorm stand a tenth of the rate.
UNNORMALISED_SHARE = 0.1
TIMED_SAMPLES = 128


@dataclass(frozen=True)
class TrainResult:
    """`proto` has the trained weights and nothing else changed. `settings` passed to `train` again repeat it exactly.

    `lr` is the rate that was used in the end (halved once if the first attempt diverged), `lr_test` how it was found
    where that was asked for; `batch_size` is the one that fitted into memory, `share` that of the steps which fitted
    into the time.
    """

    proto: onnx.ModelProto
    history: tuple[Epoch, ...]
    settings: Settings
    lr: float
    batch_size: int = BATCH_SIZE
    lr_test: RangeTest | None = None
    share: float = 1.0


@dataclass(frozen=True)
class _Plan:
    """The fixed part of a training run."""

    split: Split
    batch_size: int
    per_epoch: int
    steps: int
    seed: int
    augment: bool
    mirrored: bool = False
    time_left: Callable[[], float] | None = None


def train(
    proto: onnx.ModelProto,
    dataset: Dataset,
    *,
    teacher: onnx.ModelProto | Teacher | DistillationTargets | None = None,
    uncut: onnx.ModelProto | None = None,
    epochs: int | None = None,
    steps: int | None = None,
    lr: float | Literal["auto"] | None = None,
    seed: int = 0,
    batch_size: int | None = None,
    augment: bool = False,
    mirrored: bool = False,
    recipe: Recipe | None = None,
    settings: Settings | None = None,
    threads: int | None = None,
    checkpoint: Path | None = None,
    score: Callable[[onnx.ModelProto], float] | None = None,
    progress: Progress | None = None,
    told: Callable[[Epoch], None] | None = None,
    say: Callable[[str], None] | None = None,
    time_left: Callable[[], float] | None = None,
) -> TrainResult:
    """Train on `dataset.train` for `epochs`, or for `steps` batches, by a `recipe` (Nesterov SGD, one cycle).

    With a teacher it distils (0.9, and 0.1 of the labels' loss where there are any), else it needs labels; a teacher
    may be a function of inputs, row numbers and settings. Graphs that arrive with BatchNorm folded away get it back for
    the training and return folded; if they are a mere cut of `uncut` (None: of the teacher), with its statistics. `lr`:
    None for the usual one of this kind of network, "auto" for a range test. Deterministic for one seed and one
    `settings`; without `settings` a few timed steps choose them. With fewer `threads` than `settings.replicas` it takes
    longer, to the same result. `augment` shifts and mirrors pictures at random; `mirrored` shows them both ways in
    turn and teaches the mean of the teacher's two answers, if it can remember them (`mirroring.py`).

    What was chosen and where it stands is kept in the file `checkpoint`: killed at any moment, the same call goes on
    from there to the same bits; the caller removes the file. `score` judges models on held-out data where the recipe
    has patience. With `time_left`, in seconds, the schedule has as many steps as fit, and its rate still falls to the
    end. `progress(step, steps, loss)` follows along, `told` gets every epoch, `say` what a user should know.
    Raises NetadaptError: unsupported ops, neither labels nor teacher, divergence at half the learning rate too, a batch
    of one sample with BatchNorm, too little memory for any batch, another training's checkpoint.
    """
    if (epochs is None) == (steps is None):
        raise NetadaptError("training needs either epochs or steps")
    split = dataset.train
    own = dataset.own
    if split.labels is None and teacher is None and (own is None or own.training is None):
        raise NetadaptError("training needs labels or a teacher", code="invalid-data")
    recipe = recipe or Recipe()
    store = None
    if checkpoint is not None:
        asked = {"epochs": epochs, "steps": steps, "lr": lr, "seed": seed, "batch_size": batch_size, "augment": augment}
        asked |= {"mirrored": mirrored}
        store = _opened(checkpoint, proto, dataset, teacher, {**asked, **asdict(recipe)}, settings)
        settings = Settings(**store.content["settings"]) if "settings" in store.content else settings
    with one_thread():
        uncut = uncut or (teacher if isinstance(teacher, onnx.ModelProto) else None)
        network = trainable_network(proto, dataset, uncut=uncut, batch_size=batch_size, seed=seed)
        unfolded, graph, needs, losses = network.proto, network.graph, network.needs, network.task
        size = min(batch_size, len(split)) if batch_size is not None else fitting_batch(needs, split)
        size = in_whole_batches(size if store is None else store.content.get("batch", size), needs.only_batch)
        while True:
            per_epoch = max(1, len(split) // size)
            whole = steps if steps is not None else (epochs or 0) * per_epoch
            both = mirrored and not split.varies and 2 * len(split) <= MOST_FORESEEN
            plan = _Plan(with_flips(split) if both else split, size, per_epoch, whole, seed, augment, both, time_left)
            if own is not None and own.training is not None:
                rate = lr if isinstance(lr, float | int) else _learning_rate(graph, plan, recipe)
                known = teacher if isinstance(teacher, onnx.ModelProto | Teacher) else None
                trained = trained_by(own, unfolded, known, steps=plan.steps, lr=rate, seed=seed)
                return TrainResult(batchnorm.fold(trained), (), settings or Settings(), rate, size)
            try:
                return _trained(unfolded, plan, recipe, lr, losses, needs, teacher, settings, threads, store,
                                score, progress, told, say)  # fmt: skip
            except (MemoryError, RuntimeError) as error:
                if not out_of_memory(error):
                    raise
            size = halved(size, bool(graph.statistics), say, needs.only_batch or 1)
            if store is not None:
                store.put(batch=size, attempt=0, start=None, loop=None)


def _opened(
    path: Path, proto: onnx.ModelProto, dataset: Dataset, teacher: object, asked: dict[str, Any],
    settings: Settings | None,
) -> Checkpoint:  # fmt: skip
    identity = {
        "model": _hash(proto),
        "teacher": _hash(teacher) if isinstance(teacher, onnx.ModelProto) else None,
        "data": f"{dataset.sha256}, {len(dataset.train)} samples",
        **asked,
        "settings": None if settings is None else asdict(settings),
    }
    store = Checkpoint(path, identity)
    store.open()
    return store


def _hash(proto: onnx.ModelProto) -> str:
    digest = hashlib.sha256(without_weights(proto).SerializeToString(deterministic=True))
    for tensor in proto.graph.initializer:
        digest.update(tensor.SerializeToString(deterministic=True))
    return digest.hexdigest()


def _trained(
    unfolded: onnx.ModelProto,
    plan: _Plan,
    recipe: Recipe,
    lr: float | Literal["auto"] | None,
    losses: Task,
    needs: Footprint,
    teacher: onnx.ModelProto | Teacher | DistillationTargets | None,
    settings: Settings | None,
    threads: int | None,
    store: Checkpoint | None,
    score: Callable[[onnx.ModelProto], float] | None,
    progress: Progress | None,
    told: Callable[[Epoch], None] | None,
    say: Callable[[str], None] | None,
) -> TrainResult:
    """One training with batches of one size."""
    if settings is None:
        tried = teacher if isinstance(teacher, onnx.ModelProto) else None
        settings = _choose(unfolded, plan.split, plan.batch_size, plan.seed, losses, needs, teacher=tried, say=say)
        if store is not None:
            store.put(settings=asdict(settings))
    require(settings)
    schedule = Schedule(plan.steps, partial(_batches, plan), partial(_fetch, plan), plan.time_left)
    try:
        teaching = teaching_of(
            teacher,
            plan.split,
            settings,
            needs.shapes,
            varies=plan.augment or plan.split.varies,
            mirrored=plan.mirrored,
            repeatable=store is not None,
        )
        with (
            repeatable(settings),
            Replicas(unfolded, settings, losses, teaching, threads, needs.only_batch) as replicas,
        ):
            return _attempts(replicas, unfolded, plan, recipe, lr, schedule, store, score, progress, told)
    except RuntimeError as error:
        if out_of_memory(error) or settings == replace(settings, dtype="float32", channels_last=False):
            raise
        raise NetadaptError(
            f"training in {described(settings)} failed: {one_line(error, 160)}",
            hint="were these settings chosen on another machine? Begin anew here, or go on there",
            code="training",
        ) from error


def _attempts(
    replicas: Replicas,
    unfolded: onnx.ModelProto,
    plan: _Plan,
    recipe: Recipe,
    lr: float | Literal["auto"] | None,
    schedule: Schedule,
    store: Checkpoint | None,
    score: Callable[[onnx.ModelProto], float] | None,
    progress: Progress | None,
    told: Callable[[Epoch], None] | None,
) -> TrainResult:
    """Up to two trainings, the second at half the rate if the first diverges."""
    usual = _learning_rate(replicas.main, plan, recipe)
    recorded = None if store is None else store.content.get("test")
    test = None if recorded is None else RangeTest(**recorded)
    if lr == "auto" and test is None and plan.steps:
        test = range_test(replicas, recipe, schedule, usual)
        if store is not None:
            store.put(test=asdict(test))
    rate = test.chosen if test is not None else lr if isinstance(lr, float | int) else usual
    held_out = None if score is None else scored(replicas, unfolded, lambda p: score(batchnorm.fold(p)))
    known = {} if store is None else store.content
    if known.get("start") is not None:
        replicas.restore(known["start"])
    for attempt in range(known.get("attempt") or 0, 2):
        loop = Loop(replicas, recipe, rate / 2**attempt, held_out)
        if known.get("loop") is not None:
            loop.resume(known["loop"])
        try:
            loop.run(schedule, progress, None if store is None else lambda state: store.put(loop=state), told)
        except DivergedError:
            known = {}
            if store is not None:  # the best weights so far, from which the second attempt starts
                store.put(loop=None, attempt=1, start=replicas.main.state())
            continue
        trained = batchnorm.fold(replicas.main.write_back(unfolded))
        return TrainResult(
            trained,
            tuple(loop.history),
            replicas.settings,
            rate / 2**attempt,
            plan.batch_size,
            test,
            loop.share(schedule),
        )
    raise NetadaptError(
        f"training diverged, also at half the learning rate ({rate / 2:g})", hint="give a smaller --lr", code="diverged"
    )


def choose_settings(
    proto: onnx.ModelProto,
    dataset: Dataset,
    *,
    batch_size: int | None = None,
    seed: int = 0,
    gpu: bool = True,
    say: Callable[[str], None] | None = None,
) -> Settings:
    """Time a few training steps per setting, in a process of their own; what `train` does without `settings`.

    `gpu`: on a GPU, where there is one. `say` is told of settings that do not work here.

    The teacher is left out: its outputs are remembered, so after one epoch it costs next to nothing.
    """
    split = dataset.train
    with one_thread():
        network = trainable_network(proto, dataset, seed=seed)
        needs = network.needs
        size = in_whole_batches(batch_size if batch_size is not None else fitting_batch(needs, split), needs.only_batch)
        while True:
            try:
                return _choose(network.proto, split, size, seed, network.task, needs, gpu=gpu, say=say)
            except MemoryError:
                size = halved(min(size, TIMED_SAMPLES), normalised=True, say=None, least=needs.only_batch or 1)


@stage("choosing how to train")
def _choose(
    proto: onnx.ModelProto,
    split: Split,
    batch_size: int,
    seed: int,
    losses: Task,
    needs: Footprint,
    *,
    teacher: onnx.ModelProto | None = None,
    gpu: bool = True,
    say: Callable[[str], None] | None = None,
) -> Settings:
    drawn = np.random.default_rng(seed).permutation(len(split))[: min(batch_size, TIMED_SAMPLES)]
    drawn = np.concatenate(pieces_of(drawn, needs.only_batch))
    inputs, labels = split.batch(drawn), split.targets(drawn)
    taught = None
    if labels is None:
        own = Teacher(proto, split=split)(tensors(inputs, Settings()), np.arange(len(drawn)), Settings())
        taught = {name: value.numpy() for name, value in own.items()}
    subject = Subject(
        proto.SerializeToString(),
        inputs,
        labels,
        replace(losses, own=losses.own and replace(losses.own, training=None)),
        taught,
        None if teacher is None else teacher.SerializeToString(),
        registered_outside(),
        needs.only_batch,
    )
    gpus = gpu_dtypes() if gpu else ()
    if gpus:
        torch.cuda.empty_cache()  # what is kept here for later is what trials lack
    with Trials(subject) as trials:
        return choose(trials.prepare, len(drawn), gpu_dtypes=gpus, say=say)


def _learning_rate(graph: TorchGraph, plan: _Plan, recipe: Recipe) -> float:
    """The usual rate for this kind of network and, in proportion, a smaller batch."""
    kind = 1.0 if graph.statistics else UNNORMALISED_SHARE
    kind *= ADAMW_SHARE if recipe.optimiser == "adamw" else 1.0
    return LEARNING_RATE * kind * min(1.0, plan.batch_size / BATCH_SIZE)


def _batches(plan: _Plan, epoch: int) -> list[np.ndarray]:
    """Row numbers of every batch of an epoch; what does not fill a batch waits for another epoch's order.

    Samples that are seen both ways are seen one way, or the other, in each epoch.
    """
    rng = np.random.default_rng([plan.seed, epoch])
    if not plan.mirrored:
        order = rng.permutation(len(plan.split))
    else:
        half = len(plan.split) // 2
        first = np.random.default_rng([plan.seed, epoch // 2]).integers(0, 2, half)
        order = rng.permutation(half)
        order = order + half * (first[order] ^ (epoch % 2))
    return [order[i * plan.batch_size : (i + 1) * plan.batch_size] for i in range(plan.per_epoch)]


def _fetch(plan: _Plan, step: int) -> Fetch:
    """What hands out the samples of one step, from several threads."""

    def fetch(rows: np.ndarray) -> tuple[Arrays, Labels | None]:
        inputs, labels = plan.split.batch(rows), plan.split.targets(rows)
        if plan.augment:
            return augmented(inputs, labels, np.random.default_rng([plan.seed, step, int(rows[0])]))
        return inputs, labels

    return fetch
