"""Training: a proto in, the same proto with better weights out."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass

import numpy as np
import onnx
import torch
from torch import Tensor

from netadapt_onnx.errors import NetadaptError
from netadapt_onnx.runtime import Arrays
from netadapt_onnx.training import batchnorm
from netadapt_onnx.training.augmentation import augmented
from netadapt_onnx.training.data import Dataset, Labels, Split, taken
from netadapt_onnx.training.ops.registry import Node
from netadapt_onnx.training.own_training import trained_by
from netadapt_onnx.training.replicas import Fetch, Replicas, Teaching, one_thread, tensors
from netadapt_onnx.training.settings import Settings, choose
from netadapt_onnx.training.task import Task, task
from netadapt_onnx.training.teacher import Teacher
from netadapt_onnx.training.torch_graph import TorchGraph

BATCH_SIZE = 128
# 780 steps of a ResNet-20 that lost half its filters: 0.02 and 0.05 are equal, 0.15 loses 0.6 points.
LEARNING_RATE = 0.05
# Networks without BatchNorm stand a tenth of the rate.
UNNORMALISED_SHARE = 0.1
MOMENTUM = 0.9
WEIGHT_DECAY = 5e-4
LARGEST_GRADIENT = 5.0
WARM_UP_SHARE = 0.2
FINAL_RATE_SHARE = 1e-3
CALIBRATION_SAMPLES = 256
TIMED_SAMPLES = 128
# Activations of one batch, all replicas together: gradients and kernels' buffers take about as much again.
MOST_ACTIVATION_BYTES = 2 * 2**30

Progress = Callable[[int, int, float], None]


@dataclass(frozen=True)
class Epoch:
    """One pass over the training data (or what was left of the steps): its number, steps done so far, mean loss."""

    epoch: int
    steps: int
    loss: float
    lr: float
    seconds: float


@dataclass(frozen=True)
class TrainResult:
    """`proto` has the trained weights and nothing else changed. `settings` passed to `train` again repeat it exactly.

    `lr` is the rate that was used in the end (halved once if the first attempt diverged).
    """

    proto: onnx.ModelProto
    history: tuple[Epoch, ...]
    settings: Settings
    lr: float


@dataclass(frozen=True)
class _Plan:
    """The fixed part of a training run."""

    split: Split
    batch_size: int
    per_epoch: int
    steps: int
    seed: int
    augment: bool


class _DivergedError(Exception):
    """The loss or a gradient is no longer a number."""


def train(
    proto: onnx.ModelProto,
    dataset: Dataset,
    *,
    teacher: onnx.ModelProto | Teacher | None = None,
    epochs: int | None = None,
    steps: int | None = None,
    lr: float | None = None,
    seed: int = 0,
    batch_size: int | None = None,
    augment: bool = False,
    settings: Settings | None = None,
    threads: int | None = None,
    progress: Progress | None = None,
) -> TrainResult:
    """Train on `dataset.train` for `epochs`, or for `steps` batches: Nesterov SGD, one learning-rate cycle.

    With a teacher it distils (0.9, and 0.1 cross-entropy where there are labels), else it needs labels. Graphs that
    arrive with BatchNorm folded away get it back for the training and return folded. Deterministic for one seed and
    one `settings`; without `settings` a few timed steps choose them. With fewer `threads` than `settings.replicas` it
    takes longer, to the same result. `progress(step, steps, loss)` follows along.
    Raises NetadaptError: unsupported ops, neither labels nor teacher, or divergence at half the learning rate too.
    """
    if (epochs is None) == (steps is None):
        raise NetadaptError("training needs either epochs or steps")
    split = dataset.train
    own = dataset.own
    if split.labels is None and teacher is None and (own is None or own.training is None):
        raise NetadaptError("training needs labels or a teacher", code="invalid-data")
    with one_thread():
        unfolded = batchnorm.unfold(proto, split.sample(CALIBRATION_SAMPLES, seed))
        graph = TorchGraph(unfolded)
        footprint = _footprint(graph, split)
        losses = task(unfolded, footprint.shapes, dataset)
        size = min(batch_size, len(split)) if batch_size is not None else _batch_size(footprint, split)
        per_epoch = max(1, len(split) // size)
        plan = _Plan(split, size, per_epoch, steps if steps is not None else (epochs or 0) * per_epoch, seed, augment)
        rate = lr if lr is not None else _learning_rate(graph, plan)
        if own is not None and own.training is not None:
            trained = trained_by(own, unfolded, teacher, steps=plan.steps, lr=rate, seed=seed)
            return TrainResult(batchnorm.fold(trained), (), settings or Settings(), rate)
        if settings is None:
            settings = _choose(unfolded, split, size, seed, losses)
        teaching = _teaching(teacher, plan, settings, footprint)
        with Replicas(unfolded, settings, losses, teaching, threads) as replicas:
            for attempt in (rate, rate / 2):
                try:
                    history = _run(replicas, plan, attempt, progress)
                except _DivergedError:
                    continue
                trained = replicas.main.write_back(unfolded)
                return TrainResult(batchnorm.fold(trained), tuple(history), settings, attempt)
    raise NetadaptError(
        f"training diverged, also at half the learning rate ({rate / 2:g})", hint="give a smaller --lr", code="diverged"
    )


def _teaching(
    teacher: onnx.ModelProto | Teacher | None, plan: _Plan, settings: Settings, footprint: _Footprint
) -> Teaching | None:
    """A teacher for this training alone learns its samples as they come; one that the caller keeps, all at once."""
    if teacher is None:
        return None
    changing = plan.augment or plan.split.varies
    kept = isinstance(teacher, Teacher)
    teacher = teacher if isinstance(teacher, Teacher) else Teacher(teacher, 0 if changing else len(plan.split))
    teacher.prepare(settings, plan.split, footprint.shapes)
    if changing:
        answer = teacher.answer
        return lambda inputs, _, settings: answer(inputs, settings)
    if kept:
        teacher.foresee(plan.split, settings)
    return teacher


def choose_settings(
    proto: onnx.ModelProto, dataset: Dataset, *, batch_size: int | None = None, seed: int = 0
) -> Settings:
    """Time a few training steps per setting, on copies of the weights; what `train` does without `settings`.

    The teacher is left out: its outputs are remembered, so after one epoch it costs next to nothing.
    """
    split = dataset.train
    with one_thread():
        unfolded = batchnorm.unfold(proto, split.sample(TIMED_SAMPLES, seed))
        footprint = _footprint(TorchGraph(unfolded), split)
        size = batch_size if batch_size is not None else _batch_size(footprint, split)
        return _choose(unfolded, split, size, seed, task(unfolded, footprint.shapes, dataset))


def _choose(proto: onnx.ModelProto, split: Split, batch_size: int, seed: int, losses: Task) -> Settings:
    drawn = np.random.default_rng(seed).permutation(len(split))[: min(batch_size, TIMED_SAMPLES)]
    inputs, labels = split.batch(drawn), split.targets(drawn)
    rows = np.arange(len(drawn))
    taught = None
    if labels is None:
        own = Teacher(proto)(tensors(inputs, Settings()), rows, Settings())
        taught = {name: value.detach() for name, value in own.items()}

    def fetch(index: np.ndarray) -> tuple[Arrays, Labels | None]:
        return {name: value[index] for name, value in inputs.items()}, taken(labels, index)

    def remembered(_: Mapping[str, Tensor], index: np.ndarray, __: Settings) -> dict[str, Tensor]:
        return {name: value[torch.from_numpy(index)] for name, value in (taught or {}).items()}

    with ExitStack() as stack:

        def prepare(settings: Settings) -> Callable[[], float]:
            replicas = Replicas(proto, settings, losses, None if taught is None else remembered)
            stack.enter_context(replicas)

            def step() -> float:
                began = time.perf_counter()
                replicas.gradients(fetch, rows)
                return time.perf_counter() - began

            return step

        return choose(prepare, len(rows))


def _run(replicas: Replicas, plan: _Plan, lr: float, progress: Progress | None) -> list[Epoch]:
    """All steps of one attempt. On divergence the best weights so far are put back and _DivergedError is raised."""
    best, best_loss = replicas.main.state(), math.inf
    optimiser = _optimiser(replicas.main)
    history: list[Epoch] = []
    done, began = 0, time.monotonic()
    while done < plan.steps:
        losses: list[float] = []
        for rows in _batches(plan, len(history))[: plan.steps - done]:
            rate = one_cycle(done, plan.steps, lr)
            for group in optimiser.param_groups:
                group["lr"] = rate
            loss = replicas.gradients(_fetch(plan, done), rows)
            norm = torch.nn.utils.clip_grad_norm_(replicas.main.parameters(), LARGEST_GRADIENT)
            if not math.isfinite(loss) or not math.isfinite(float(norm)):
                replicas.restore(best)
                raise _DivergedError
            optimiser.step()
            losses.append(loss)
            done += 1
            if progress is not None:
                progress(done, plan.steps, loss)
        replicas.average_statistics()
        mean = float(np.mean(losses))
        history.append(Epoch(len(history) + 1, done, mean, rate, time.monotonic() - began))
        if mean <= best_loss:
            best, best_loss = replicas.main.state(), mean
    return history


def one_cycle(step: int, steps: int, lr: float) -> float:
    """The learning rate of a step: linear up to `lr`, then half a cosine down (Smith & Topin, 2018)."""
    warm_up = max(1, round(WARM_UP_SHARE * steps))
    if step < warm_up:
        return lr * (step + 1) / (warm_up + 1)
    position = (step - warm_up) / max(1, steps - warm_up)
    return lr * (FINAL_RATE_SHARE + (1 - FINAL_RATE_SHARE) * 0.5 * (1 + math.cos(math.pi * position)))


def _optimiser(graph: TorchGraph) -> torch.optim.SGD:
    """SGD whose weight decay spares biases and normalisations: pulling those to zero only hurts."""
    weights = graph.weights
    decayed = [p for name, p in weights.items() if graph.kinds[name] == "weight"]
    spared = [p for name, p in weights.items() if graph.kinds[name] != "weight"]
    groups = [{"params": decayed, "weight_decay": WEIGHT_DECAY}, {"params": spared, "weight_decay": 0.0}]
    groups = [group for group in groups if group["params"]]
    if not groups:
        raise NetadaptError("the model has no weights to train", code="unsupported")
    return torch.optim.SGD(groups, lr=0.0, momentum=MOMENTUM, nesterov=True)


def _learning_rate(graph: TorchGraph, plan: _Plan) -> float:
    """The usual rate for this kind of network and, in proportion, a smaller batch."""
    kind = 1.0 if graph.statistics else UNNORMALISED_SHARE
    return LEARNING_RATE * kind * min(1.0, plan.batch_size / BATCH_SIZE)


def _batches(plan: _Plan, epoch: int) -> list[np.ndarray]:
    """Row numbers of every batch of an epoch; what does not fill a batch waits for another epoch's order."""
    order = np.random.default_rng([plan.seed, epoch]).permutation(len(plan.split))
    return [order[i * plan.batch_size : (i + 1) * plan.batch_size] for i in range(plan.per_epoch)]


def _fetch(plan: _Plan, step: int) -> Fetch:
    """What hands out the samples of one step, from several threads."""

    def fetch(rows: np.ndarray) -> tuple[Arrays, Labels | None]:
        inputs, labels = plan.split.batch(rows), plan.split.targets(rows)
        if plan.augment:
            return augmented(inputs, labels, np.random.default_rng([plan.seed, step, int(rows[0])]))
        return inputs, labels

    return fetch


@dataclass(frozen=True)
class _Footprint:
    """Shapes of a graph's outputs for two samples, and what one sample's activations take in training."""

    shapes: dict[str, tuple[int, ...]]
    activation_bytes: int


def _footprint(graph: TorchGraph, split: Split) -> _Footprint:
    rows = np.array([0, len(split) - 1])  # two: no axis of the model is likely to be that long for another reason
    total = 0

    def count(_: Node, __: Sequence[Tensor | None], results: Sequence[Tensor]) -> None:
        nonlocal total
        total += sum(value.numel() * value.element_size() for value in results)

    found = graph.observe(tensors(split.batch(rows)), count)
    return _Footprint({name: tuple(value.shape) for name, value in found.items()}, total // 2)


def _batch_size(footprint: _Footprint, split: Split) -> int:
    """The usual batch, or less where its activations would not fit; it depends on the model alone."""
    fitting = MOST_ACTIVATION_BYTES // max(1, footprint.activation_bytes)
    return int(np.clip(fitting, 8, min(BATCH_SIZE, len(split)))) if len(split) > 8 else len(split)
