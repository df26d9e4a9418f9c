"""Architecture descent: train a network briefly, prune it filter by filter, and record how its widths shrink.

(NeuralScale; Lee & Lee, CVPR 2020, section 3 and its schedule.) All filters of all groups compete by the importance of
their gates (`gated_training.py`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import onnx

from netadapt_onnx.common.progress import Progress, unheard
from netadapt_onnx.data.dataset import Dataset
from netadapt_onnx.errors import invalid_data
from netadapt_onnx.scaling.gated_training import GatedNetwork
from netadapt_onnx.scaling.width_record import WidthRecord
from netadapt_onnx.surgery.trace import Trace
from netadapt_onnx.training.batch_plan import epoch_order
from netadapt_onnx.training.placement import require
from netadapt_onnx.training.replicas import one_thread
from netadapt_onnx.training.settings import Settings

# One removal takes at most one in so many filters.
LARGEST_PART = 150
# The paper trains for 50 batches between two removals, a quarter of an epoch of its data. Smaller data are seen as
# often: on 1,200 pictures 50 batches are ten epochs, with which fifteen iterations of the demo's network take hours.
BATCHES, EPOCH_SHARE = 50, 0.25
# The paper divides the learning rate of pruning by LR_DECAY every DECAY_EPOCHS epochs.
LR_DECAY, DECAY_EPOCHS = 1.5, 10


@dataclass(frozen=True)
class DescentSchedule:
    """The paper's schedule of training and removals.

    After every `batches` batches `removed` filters are removed, but at most one in 150: the paper's 10 are one in 275
    of its VGG11, and a narrow network would have too few records between its original and its smallest widths. It
    stops when the `share` of all filters has been removed (0.95) or a group would lose its last filter. With `sparing`,
    groups at their floor keep their filters while the others go on losing theirs, and every removal is recorded.
    """

    warm_up_epochs: int = 10
    batch_size: int = 256
    lr: float = 0.1
    pruning_lr: float = 0.01
    batches: int = BATCHES
    removed: int = 10
    share: float = 0.95
    sparing: bool = False

    def usual_batches(self, samples: int) -> int:
        """How many batches pass between two removals where nobody says: as large a share of an epoch as the paper's."""
        return min(BATCHES, max(1, round(EPOCH_SHARE * samples / self.batch_size)))


def descend(
    trace: Trace,
    params: Callable[[Mapping[str, int]], float],
    dataset: Dataset,
    schedule: DescentSchedule,
    settings: Settings,
    *,
    teacher: onnx.ModelProto | None = None,
    seed: int = 0,
    progress: Progress | None = None,
) -> WidthRecord:
    """Train a network as it is initialised, prune it filter by filter, and record its widths on the way.

    Args:
        trace: The network, whose weights training starts from.
        params: Counts a network's parameters at given widths.
        dataset: The samples to train on.
        schedule: When filters are removed, and how many.
        settings: Device, number type and replicas of the training.
        teacher: The model whose answers are learned where the samples have no labels.
        seed: Determines the order of the samples.
        progress: Called with steps done, steps in all and a text.

    Returns:
        A row after every removal, once every group has lost a filter; the record ends when a group would fall below its
        floor.

    Raises:
        NetadaptError: There are neither labels nor a teacher, or training diverged.
    """
    if dataset.train.labels is None and teacher is None:
        raise invalid_data("gates need a loss: labels, or the original model as teacher")
    require(settings)
    rows: list[list[int]] = []
    tau: list[float] = []
    with one_thread(), GatedNetwork(trace, dataset, teacher, settings, seed) as network:
        groups = _competing_groups(trace, network.gated)
        filters = sum(len(g.roots) for g in groups)
        steps = _Steps(network, len(dataset.train), schedule, filters, seed, progress or unheard)
        steps.warm_up()
        for removal in range(steps.removals):
            importance = steps.importance(removal)
            lowest = _lowest(network.open, importance, groups, steps.removed, schedule.sparing)
            if lowest is None:
                break
            network.close(lowest)
            widths = {g.name: int(network.open[g.roots].sum()) * g.step for g in groups}
            if schedule.sparing or all(widths[g.name] < g.channels for g in groups):
                rows.append(list(widths.values()))
                tau.append(params(widths))
    names = tuple(g.name for g in groups)
    return WidthRecord(names, np.array(rows, float).reshape(-1, len(names)), np.array(tau, float))


@dataclass(frozen=True)
class _Steps:
    """The training steps of a descent: those before the first removal, and those between two removals.

    `samples` and `filters` are how many there are; `seed` determines the order of the samples.
    """

    network: GatedNetwork
    samples: int
    schedule: DescentSchedule
    filters: int
    seed: int
    progress: Progress

    @property
    def removed(self) -> int:
        """How many filters a removal takes."""
        return min(self.schedule.removed, max(1, self.filters // LARGEST_PART))

    @property
    def removals(self) -> int:
        """How many removals there are at most."""
        return int(self.schedule.share * self.filters / self.removed)

    @property
    def batch_size(self) -> int:
        """The samples of a step."""
        return min(self.schedule.batch_size, self.samples)

    @property
    def per_epoch(self) -> int:
        """The steps of an epoch."""
        return max(1, self.samples // self.batch_size)

    def warm_up(self) -> None:
        """Train before filters are removed."""
        for step in range(self.schedule.warm_up_epochs * self.per_epoch):
            self._step(step, self.schedule.lr, "removing filters: training first")

    def importance(self, removal: int) -> np.ndarray:
        """Train until the next removal; returns the sum of the filters' importance by root label, (roots,)."""
        schedule = self.schedule
        total = np.zeros(len(self.network.open))
        text = f"removing filters: {removal * self.removed} of {self.filters}"
        for step in range(removal * schedule.batches, (removal + 1) * schedule.batches):
            lr = schedule.pruning_lr / LR_DECAY ** int(step / self.per_epoch / DECAY_EPOCHS)
            total += self._step(schedule.warm_up_epochs * self.per_epoch + step, lr, text)
        return total

    def _step(self, step: int, lr: float, text: str) -> np.ndarray:
        epoch, position = divmod(step, self.per_epoch)
        order = epoch_order(self.seed, epoch, self.samples)
        products = self.network.step(order[position * self.batch_size :][: self.batch_size], lr)
        steps = self.schedule.warm_up_epochs * self.per_epoch + self.removals * self.schedule.batches
        self.progress(step + 1, steps, text)
        return products


@dataclass(frozen=True)
class _CompetingGroup:
    """A group whose filters have gates: its `roots` (filters,), each `step` channels, of which `floor` stay."""

    name: str
    channels: int
    step: int
    floor: int
    roots: np.ndarray


def _competing_groups(trace: Trace, gated: np.ndarray) -> tuple[_CompetingGroup, ...]:
    """The groups whose channels all have gates; of a state that only feeds back no gate measures the importance."""
    return tuple(
        _CompetingGroup(g.name, g.channels, g.step, max(1, -(-g.floor // g.step)), np.unique(trace.members[g.name]))
        for g in trace.prunable
        if np.isin(trace.members[g.name], gated).all()
    )


def _lowest(
    is_open: np.ndarray, importance: np.ndarray, competing: tuple[_CompetingGroup, ...], count: int, sparing: bool
) -> np.ndarray | None:
    """The root labels of the `count` least important open filters.

    A group at its floor loses none: with `sparing` the next filters are taken instead, else there is no answer (None).
    """
    alive = np.concatenate([g.roots[is_open[g.roots] > 0] for g in competing])
    groups = np.concatenate([np.full(int((is_open[g.roots] > 0).sum()), i) for i, g in enumerate(competing)])
    spare = [int(is_open[g.roots].sum()) - g.floor for g in competing]
    lowest: list[int] = []
    for index in np.argsort(importance[alive], kind="stable"):
        if len(lowest) == count:
            break
        if spare[groups[index]] > 0:
            spare[groups[index]] -= 1
            lowest.append(int(alive[index]))
        elif not sparing:
            return None
    return np.array(lowest) if lowest else None
