"""Architecture descent: train a network briefly, prune it filter by filter, and record how its widths shrink.

(NeuralScale; Lee & Lee, CVPR 2020, section 3 and its schedule.) A gate of 1 stands behind every filter, where its
channel is consumed; the squared product of a gate and its gradient says what the loss would change without the filter
(Molchanov et al., CVPR 2019). All filters of all groups compete.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import onnx
import torch
from torch import Tensor

from netadapt_onnx.errors import NetadaptError
from netadapt_onnx.runtime import Arrays
from netadapt_onnx.scaling.record import Record
from netadapt_onnx.surgery import Trace
from netadapt_onnx.surgery.contractions import Contraction, contractions
from netadapt_onnx.training.data import Dataset, Labels
from netadapt_onnx.training.replicas import one_thread, tensors
from netadapt_onnx.training.settings import Settings
from netadapt_onnx.training.task import Task, label_tensors, task
from netadapt_onnx.training.torch_graph import TorchGraph

Progress = Callable[[int, int, str], None]


@dataclass(frozen=True)
class Schedule:
    """The paper's schedule; `share` of all filters go before it stops (0.95), or a group would lose its last.

    `removed` filters go after every `batches` batches, but at most a fiftieth of all: the paper's 10 are one in 275 of
    its VGG11, and a narrow network would jump.
    """

    warm_up_epochs: int = 10
    batch_size: int = 256
    lr: float = 0.1
    pruning_lr: float = 0.01
    lr_decay: float = 1.5
    decay_epochs: int = 10
    momentum: float = 0.5
    weight_decay: float = 5e-4
    batches: int = 50
    removed: int = 10
    share: float = 0.95


@dataclass(frozen=True)
class _Batches:
    """An endless, seeded stream of batches."""

    dataset: Dataset
    size: int
    seed: int

    @property
    def per_epoch(self) -> int:
        return max(1, len(self.dataset.train) // self.size)

    def at(self, step: int) -> tuple[Arrays, Labels | None]:
        """Batch number `step`, counted over epochs."""
        split = self.dataset.train
        epoch, position = divmod(step, self.per_epoch)
        order = np.random.default_rng([self.seed, epoch]).permutation(len(split))
        rows = order[position * self.size : (position + 1) * self.size]
        return split.batch(rows), split.targets(rows)


class _Pruned:
    """A network in training whose filters are removed one after another."""

    def __init__(self, found: Trace, schedule: Schedule, dataset: Dataset, teacher: onnx.ModelProto | None) -> None:
        self.found = found
        self._layout = Settings(channels_last=True)
        self.graph = TorchGraph(found.folded.proto).train()
        self.graph.arrange(True)
        self._places: tuple[Contraction, ...] = contractions(found)
        self._ranks = [len(found.folded.shapes[place.tensor]) for place in self._places]
        outputs = {v.name: found.folded.shapes[v.name] for v in found.folded.proto.graph.output}
        self._task: Task = task(found.folded.proto, outputs, dataset)
        self._teacher = None if teacher is None else TorchGraph(teacher).eval().requires_grad_(False)
        self.gates = np.ones(len(found.roots), np.float32)
        self._optimiser = torch.optim.SGD(
            self.graph.parameters(), lr=schedule.lr, momentum=schedule.momentum, weight_decay=schedule.weight_decay
        )

    def step(self, inputs: Arrays, labels: Labels | None, lr: float) -> np.ndarray:
        """One step of SGD; returns the squared gate-gradient products, by root label."""
        given = tensors(inputs, self._layout)
        gates = [
            torch.from_numpy(self.gates[place.line].reshape(place.along(rank))).requires_grad_()
            for place, rank in zip(self._places, self._ranks, strict=True)
        ]
        pairs = [((place.output, place.slot), gate) for place, gate in zip(self._places, gates, strict=True)]
        outputs = self.graph.gated(given, pairs)
        loss = self._loss(outputs, given, labels)
        if not bool(torch.isfinite(loss)):
            raise NetadaptError("training before pruning diverged", hint="give a smaller --lr", code="diverged")
        parameters = list(self.graph.parameters())
        found = torch.autograd.grad(loss, [*parameters, *gates], allow_unused=True)
        for parameter, gradient in zip(parameters, found, strict=False):
            parameter.grad = gradient
        for group in self._optimiser.param_groups:
            group["lr"] = lr
        self._optimiser.step()
        total = np.zeros(len(self.gates))
        for place, gate_gradient in zip(self._places, found[len(parameters) :], strict=True):
            if gate_gradient is not None:
                np.add.at(total, place.line, gate_gradient.double().numpy().reshape(-1))
        total[0] = 0.0
        products: np.ndarray = (total * self.gates) ** 2
        return products

    def _loss(self, outputs: Mapping[str, Tensor], inputs: Mapping[str, Tensor], labels: Labels | None) -> Tensor:
        if labels is not None:
            return self._task.loss(outputs, label_tensors(labels), None)
        assert self._teacher is not None
        with torch.no_grad():
            wanted = self._teacher(inputs)
        return self._task.loss(outputs, None, wanted)


def descend(
    proto: onnx.ModelProto,
    fold: Callable[[onnx.ModelProto], Trace],
    params: Callable[[Mapping[str, int]], float],
    dataset: Dataset,
    schedule: Schedule,
    *,
    teacher: onnx.ModelProto | None = None,
    seed: int = 0,
    progress: Progress | None = None,
) -> Record:
    """Train `proto` as it is initialised, prune it, and return the widths recorded on the way.

    `fold` traces it; `params` counts a network's parameters at given widths; `teacher` is needed without labels.
    A row is recorded after every removal once every group has lost a filter.
    """
    if dataset.train.labels is None and teacher is None:
        raise NetadaptError("gates need a loss: labels, or the original model as teacher", code="invalid-data")
    found = fold(proto)
    batches = _Batches(dataset, min(schedule.batch_size, len(dataset.train)), seed)
    gated = np.unique(np.concatenate([place.line for place in contractions(found)]))
    classes = {g.name: np.unique(found.members[g.name]) for g in found.prunable}
    # What is never summed over (a state that only feeds back) has no gate, so nothing says what it is worth.
    classes = {name: roots for name, roots in classes.items() if np.isin(roots, gated).all()}
    steps = {g.name: g.step for g in found.prunable}
    channels = {g.name: g.channels for g in found.prunable}
    total = sum(len(roots) for roots in classes.values())
    warm_up = schedule.warm_up_epochs * batches.per_epoch
    removed = min(schedule.removed, max(1, total // 50))
    removals = int(schedule.share * total / removed)
    whole = warm_up + removals * schedule.batches
    rows: list[list[int]] = []
    tau: list[float] = []
    with one_thread():
        pruned = _Pruned(found, schedule, dataset, teacher)
        for step in range(warm_up):
            pruned.step(*batches.at(step), schedule.lr)
            _say(progress, step + 1, whole, "training")
        for removal in range(removals):
            importance = np.zeros(len(found.roots))
            for step in range(warm_up + removal * schedule.batches, warm_up + (removal + 1) * schedule.batches):
                epochs = (step - warm_up) / batches.per_epoch
                lr = schedule.pruning_lr / schedule.lr_decay ** int(epochs / schedule.decay_epochs)
                importance += pruned.step(*batches.at(step), lr)
                _say(progress, step + 1, whole, f"{removal * removed} of {total} filters removed")
            if not _remove(pruned.gates, importance, classes, removed):
                break
            widths = {name: int(pruned.gates[roots].sum()) * steps[name] for name, roots in classes.items()}
            if all(width < channels[name] for name, width in widths.items()):
                rows.append(list(widths.values()))
                tau.append(params(widths))
    return Record(tuple(classes), np.array(rows, float).reshape(-1, len(classes)), np.array(tau, float))


def _remove(gates: np.ndarray, importance: np.ndarray, classes: Mapping[str, np.ndarray], count: int) -> bool:
    """Close the gates of the `count` least important filters; False, and nothing, if a group would lose its last."""
    alive = np.concatenate([roots[gates[roots] > 0] for roots in classes.values()])
    lowest = alive[np.argsort(importance[alive], kind="stable")[:count]]
    left = gates.copy()
    left[lowest] = 0
    if any(not left[roots].any() for roots in classes.values()):
        return False
    gates[:] = left
    return True


def _say(progress: Progress | None, done: int, total: int, text: str) -> None:
    if progress is not None:
        progress(done, total, text)
