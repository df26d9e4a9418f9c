"""Architecture descent: train a network briefly, prune it filter by filter, and record how its widths shrink.

(NeuralScale; Lee & Lee, CVPR 2020, section 3 and its schedule.) All filters of all groups compete by the importance of
their gates (`shrinking.py`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import onnx

from netadapt_onnx.common.progress import Progress
from netadapt_onnx.data.dataset import Dataset
from netadapt_onnx.errors import NetadaptError
from netadapt_onnx.scaling.record import Record
from netadapt_onnx.scaling.shrinking import Momentum, Shrinking
from netadapt_onnx.surgery.trace import Trace
from netadapt_onnx.training.placement import require
from netadapt_onnx.training.replicas import one_thread
from netadapt_onnx.training.settings import Settings

# No removal takes more than one in so many filters.
LARGEST_PART = 150


@dataclass(frozen=True)
class Schedule:
    """The paper's schedule; `share` of all filters go before it stops (0.95), or a group would lose its last.

    `removed` filters go after every `batches` batches, but at most one in 150: the paper's 10 are one in 275 of its
    VGG11, and a narrow network would jump from floor to ceiling within a few records. `sparing`: groups at their floor
    keep their filters and the others go on, and every removal is recorded.
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
    sparing: bool = False


@dataclass(frozen=True)
class _Batches:
    """An endless, seeded stream of the numbers of samples."""

    samples: int
    size: int
    seed: int

    @property
    def per_epoch(self) -> int:
        return max(1, self.samples // self.size)

    def at(self, step: int) -> np.ndarray:
        """Batch number `step`, counted over epochs."""
        epoch, position = divmod(step, self.per_epoch)
        order = np.random.default_rng([self.seed, epoch]).permutation(self.samples)
        return order[position * self.size : (position + 1) * self.size]


def descend(
    found: Trace,
    params: Callable[[Mapping[str, int]], float],
    dataset: Dataset,
    schedule: Schedule,
    settings: Settings,
    *,
    teacher: onnx.ModelProto | None = None,
    seed: int = 0,
    progress: Progress | None = None,
) -> Record:
    """Train `found`'s model as it is initialised, prune it, and return the widths recorded on the way.

    `params` counts a network's parameters at given widths; `teacher` is needed without labels. A row is recorded after
    every removal once every group has lost a filter; the record ends when a group would fall below its floor.
    """
    if dataset.train.labels is None and teacher is None:
        raise NetadaptError("gates need a loss: labels, or the original model as teacher", code="invalid-data")
    require(settings)
    samples = len(dataset.train)
    batches = _Batches(samples, min(schedule.batch_size, samples), seed)
    warm_up = schedule.warm_up_epochs * batches.per_epoch
    rows: list[list[int]] = []
    tau: list[float] = []
    sgd = Momentum(schedule.momentum, schedule.weight_decay)
    with one_thread(), Shrinking(found, dataset, teacher, settings, sgd) as network:
        competing = _competing(found, network.gated)
        total = sum(len(c.roots) for c in competing)
        removed = min(schedule.removed, max(1, total // LARGEST_PART))
        removals = int(schedule.share * total / removed)
        whole = warm_up + removals * schedule.batches
        for step in range(warm_up):
            network.step(batches.at(step), schedule.lr)
            _say(progress, step + 1, whole, "removing filters: training first")
        for removal in range(removals):
            importance = np.zeros(len(found.roots))
            for step in range(warm_up + removal * schedule.batches, warm_up + (removal + 1) * schedule.batches):
                epochs = (step - warm_up) / batches.per_epoch
                lr = schedule.pruning_lr / schedule.lr_decay ** int(epochs / schedule.decay_epochs)
                importance += network.step(batches.at(step), lr)
                _say(progress, step + 1, whole, f"removing filters: {removal * removed} of {total}")
            lowest = _lowest(network.open, importance, competing, removed, schedule.sparing)
            if lowest is None:
                break
            network.close(lowest)
            widths = {c.name: int(network.open[c.roots].sum()) * c.step for c in competing}
            if schedule.sparing or all(widths[c.name] < c.channels for c in competing):
                rows.append(list(widths.values()))
                tau.append(params(widths))
    names = tuple(c.name for c in competing)
    return Record(names, np.array(rows, float).reshape(-1, len(names)), np.array(tau, float))


@dataclass(frozen=True)
class _Competing:
    """A group whose filters have gates: its `roots` (filters,), each `step` channels, of which `floor` stay."""

    name: str
    channels: int
    step: int
    floor: int
    roots: np.ndarray


def _competing(found: Trace, gated: np.ndarray) -> tuple[_Competing, ...]:
    """Groups whose channels are all gated. Of a state that only feeds back nothing says what it is worth."""
    return tuple(
        _Competing(g.name, g.channels, g.step, max(1, -(-g.floor // g.step)), np.unique(found.members[g.name]))
        for g in found.prunable
        if np.isin(found.members[g.name], gated).all()
    )


def _lowest(
    there: np.ndarray, importance: np.ndarray, competing: tuple[_Competing, ...], count: int, sparing: bool
) -> np.ndarray | None:
    """The `count` least important filters that are there.

    Of a group at its floor none goes: the next ones go instead if `sparing`, else there is no answer.
    """
    alive = np.concatenate([c.roots[there[c.roots] > 0] for c in competing])
    groups = np.concatenate([np.full(int((there[c.roots] > 0).sum()), i) for i, c in enumerate(competing)])
    room = [int(there[c.roots].sum()) - c.floor for c in competing]
    lowest: list[int] = []
    for place in np.argsort(importance[alive], kind="stable"):
        if len(lowest) == count:
            break
        if room[groups[place]] > 0:
            room[groups[place]] -= 1
            lowest.append(int(alive[place]))
        elif not sparing:
            return None
    return np.array(lowest) if lowest else None


def _say(progress: Progress | None, done: int, total: int, text: str) -> None:
    if progress is not None:
        progress(done, total, text)
