"""What a proposal's job does: cut a model, make up for the cut, judge what came of it.

All of it depends on the request and on two shared values, the run's bench and the model that is cut, so it comes to the
same in our own process, in another, and on another machine.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from functools import partial
from threading import Lock
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np
import onnx

from netadapt_onnx.data.dataset import Dataset, Split
from netadapt_onnx.graph.fold import fold
from netadapt_onnx.graph.runtime import Arrays
from netadapt_onnx.search.evaluator import RANKING_SAMPLES, DataJudge, Evaluator
from netadapt_onnx.search.executors.protocol import Made, WorkerInfo
from netadapt_onnx.surgery.blocks import rewired, traced_without
from netadapt_onnx.surgery.criteria.selection import select
from netadapt_onnx.surgery.groups import Group
from netadapt_onnx.surgery.reconstruct.gram import SAMPLES, GramMatrices, Targets, gram_matrices, original_targets
from netadapt_onnx.surgery.reconstruct.least_squares import kept_outputs, reconstruct, reconstruct_in_order
from netadapt_onnx.surgery.resize import resize
from netadapt_onnx.surgery.trace import Trace
from netadapt_onnx.training.activation_cache import Front, Prefixes, front_of
from netadapt_onnx.training.settings import Settings

if TYPE_CHECKING:
    from netadapt_onnx.training.distillation import Teacher
    from netadapt_onnx.training.frozen_prefix import FrozenFronts

CALIBRATION_SAMPLES = 1024
# Models that lost a branch are solved whole to be ranked, on so many: a ResNet-20 without its first block then comes to
# 86.9% instead of 87.2%, in half the time; solved in one pass, as those that lost channels are, to 59.9%. A quarter of
# the positions, too: six such models come to 82.8% on average, to 82.9% on all, in 1.6 s instead of 2.0.
BRANCH_SAMPLES = 256
# What ranks cuts of channels: a ResNet-20's groups cut to half come within 0.8 points of what they come to on all
# samples, 0.02 on average, in half the time.
RANKED_SAMPLES = 512
MODEL_FILE = "model.onnx"
Kept = Mapping[str, np.ndarray]


@dataclass(frozen=True)
class Training:
    """A short training: steps of SGD, their learning rate, and how this run trains.

    `freeze_front`: only what lies behind a cut.
    """

    steps: int
    lr: float
    settings: Settings
    freeze_front: bool = False


class Base:
    """A traced model to cut, `kept` being the original's channels that it still has; its moments are remembered.

    `removed` are the original's branches that it has lost, `changed` first outputs of nodes that read other tensors
    for it and that nothing has made up for yet. One that was `trained` at length is no longer solved towards the
    original's layers, but towards its own.
    """

    def __init__(
        self,
        trace: Trace,
        kept: Kept,
        removed: frozenset[str] = frozenset(),
        changed: frozenset[str] = frozenset(),
        *,
        trained: bool = False,
    ) -> None:
        self.trace = trace
        self.kept = kept
        self.removed = removed
        self.changed = changed
        self.trained = trained
        self._moments: dict[str, GramMatrices] | None = None
        self._prefixes: Prefixes | None = None
        self._frozen: FrozenFronts | None = None
        self._lock = Lock()

    def gram_matrices(self, bench: WorkerContext) -> dict[str, GramMatrices]:
        """What reconstruction solves with, computed when it is first asked for."""
        with self._lock:
            if self._moments is None:
                inputs, targets = bench.calibrated(RANKED_SAMPLES, self.trace if self.trained else None)
                start, kept = (self.trace, {}) if self.trained else (bench.original.trace, self.kept)
                self._moments = gram_matrices(self.trace, inputs, targets, kept_outputs(start, kept))
            return self._moments

    def prefixes(self, judge: DataJudge) -> Prefixes:
        """What it computes of the samples that rank in front of each group's first layer."""
        with self._lock:
            if self._prefixes is None:
                self._prefixes = Prefixes(self.trace.folded.proto, self._fronts(), judge.ranking)
            return self._prefixes

    def frozen(self, split: Split, answers: Teacher) -> FrozenFronts:
        """The same of the samples that proposals are trained on."""
        from netadapt_onnx.training.frozen_prefix import FrozenFronts

        with self._lock:
            if self._frozen is None:
                self._frozen = FrozenFronts(self.trace.folded.proto, self._fronts(), split, answers)
            return self._frozen

    def _fronts(self) -> list[Front]:
        return [_front(self.trace, group) for group in self.trace.prunable]

    def without(self, branches: Collection[str]) -> Base:
        """The model without some more branches; itself if there are none."""
        if not branches:
            return self
        left = traced_without(self.trace, branches)
        changed = rewired(self.trace.folded, left.folded)
        return Base(left, self.kept, self.removed | frozenset(branches), changed, trained=self.trained)

    def __reduce__(self) -> tuple[Any, ...]:
        return partial(Base, trained=self.trained), (self.trace, self.kept, self.removed, self.changed)


def _front(trace: Trace, group: Group) -> Front:
    """The nodes that no cut of this group reaches."""
    now, after = trace.flat.shapes, trace.resized_shapes(select(trace, {group.name: group.floor}, "first"))
    return front_of(trace.folded.proto, {name for name, shape in after.items() if shape != now[name]})


class WorkerContext:
    """What all jobs of a run work with. As bytes it holds only the samples that they look at: all of the training
    samples if they `train`, else those of the calibration, and those that rank.
    """

    def __init__(
        self,
        original: Base,
        judge: Evaluator,
        data: Dataset | None,
        *,
        seed: int,
        trains: bool,
        shapes: Mapping[str, tuple[int, ...]],
        batch_size: int,
    ) -> None:
        self.original = original
        self._judge = judge
        self._data = data
        self._seed = seed
        self._trains = trains
        self._shapes = dict(shapes)
        self._batch_size = batch_size
        self._lock = Lock()
        self._calibration: dict[int, tuple[Arrays, Targets]] = {}
        self._teacher: Teacher | None = None
        self._answers: tuple[Split, Teacher] | None = None

    def calibrated(self, samples: int = CALIBRATION_SAMPLES, trace: Trace | None = None) -> tuple[Arrays, Targets]:
        """Calibration inputs, and what the layers of a model (None: the original) make of them."""
        assert self._data is not None
        if trace is not None:
            return self._calibrated(samples, trace)
        with self._lock:
            if samples not in self._calibration:
                self._calibration[samples] = self._calibrated(samples, self.original.trace)
            return self._calibration[samples]

    def _calibrated(self, samples: int, trace: Trace) -> tuple[Arrays, Targets]:
        assert self._data is not None
        # A sample of the sample: workers know no others.
        drawn = self._data.train.sample(CALIBRATION_SAMPLES, self._seed).sample(samples, self._seed)
        inputs = drawn.batch(slice(None))
        positions = SAMPLES * samples // CALIBRATION_SAMPLES  # fewer images, and no more of each
        return inputs, original_targets(trace, inputs, self._seed, positions)

    def cut(self, base: Base, keep: Kept, *, mended: bool) -> onnx.ModelProto:
        """The cut; `mended`: its consumers reconstructed, where there is data to do it with.

        Where branches have just gone everything behind them is to be made up for, one layer after the other.
        """
        if self._data is None or not mended:
            return resize(base.trace, keep)
        if base.changed and not base.trained:
            return self.solved(kept_after(base.kept, keep), base.removed, BRANCH_SAMPLES)
        return reconstruct(base.trace, keep, base.gram_matrices(self), base.changed)

    def solved(self, kept: Kept, removed: Collection[str] = (), samples: int = CALIBRATION_SAMPLES) -> onnx.ModelProto:
        """The original without some branches, cut to these channels, its layers solved one after the other.

        Each sees what is left of those before it: ResNet-20 at half its macs kept 78.8% instead of 73.1% so (4 s), too
        slow for every proposal.
        """
        base = self.original.without(removed)
        there = {group.name for group in base.trace.groups}
        kept = {name: indices for name, indices in kept.items() if name in there}
        if self._data is None:
            return resize(base.trace, kept)
        inputs, targets = self.calibrated(samples)
        return reconstruct_in_order(base.trace, kept, inputs, targets, base.changed)

    def trained(
        self, proto: onnx.ModelProto, training: Training, here: WorkerInfo, base: Base | None = None
    ) -> onnx.ModelProto:
        """After a short distillation from the original. `base`: the model that `proto` is a cut of."""
        from netadapt_onnx.training.distillation import Teacher
        from netadapt_onnx.training.trainer import train

        assert self._data is not None
        if not training.steps:
            return proto
        proto = fold(proto, self._shapes, self._batch_size).proto
        options: dict[str, Any] = {
            "steps": training.steps,
            "lr": training.lr,
            "seed": self._seed,
            "settings": training.settings,
            "threads": here.threads,
            "progress": lambda *_: here.check(),
        }
        frozen = self._frozen(training, base) if training.freeze_front else None
        if frozen is not None:
            return frozen.trained(proto, self._data, **options)
        if self._teacher is None:
            self._teacher = Teacher(self.original.trace.folded.proto, len(self._data.train))
        uncut = None if base is None else base.trace.folded.proto
        return train(proto, self._data, teacher=self._teacher, uncut=uncut, **options).proto

    def _frozen(self, training: Training, base: Base | None) -> FrozenFronts | None:
        """Fronts for a cut of `base`; None where it is none, and where samples or answers cannot be remembered."""
        from netadapt_onnx.training.distillation import taught
        from netadapt_onnx.training.memory import BATCH_SIZE

        data = self._data
        if base is None or base.changed or data is None or data.train.varies:
            return None
        if data.own is not None and data.own.training is not None:
            return None
        with self._lock:
            if self._answers is None:
                split = data.train.sample(training.steps * BATCH_SIZE, self._seed)
                answers = taught(self.original.trace.folded.proto, split, training.settings)
                answers.precompute(split, training.settings)
                self._answers = split, answers
        split, answers = self._answers
        return base.frozen(split, answers) if answers.is_complete else None

    def ranked(self, proto: onnx.ModelProto, base: Base | None = None) -> float:
        """The accuracy that proposals are compared by. `base`: the model that `proto` is a cut of, and no more."""
        if base is None or not isinstance(self._judge, DataJudge):
            return self._judge.ranked(proto)
        return self._judge.ranked(proto, base.prefixes(self._judge))

    def __reduce__(self) -> tuple[Any, ...]:
        data, judge = self._data, self._judge
        if data is not None:
            train = data.train if self._trains else data.train.sample(CALIBRATION_SAMPLES, self._seed)
            ranking = data.val.sample(RANKING_SAMPLES, self._seed)
            data = replace(data, train=train.compact(), val=ranking.compact(), test=None)
            if isinstance(judge, DataJudge):
                judge = replace(judge, dataset=data, _references={}, _last=[])
        options = {
            "seed": self._seed,
            "trains": self._trains,
            "shapes": self._shapes,
            "batch_size": self._batch_size,
        }
        return _bench, (self.original, judge, data, options)


def kept_after(kept: Kept, keep: Kept) -> dict[str, np.ndarray]:
    """The original's channels that a cut leaves, for the groups that have lost any. `kept` is this before the cut."""
    return dict(kept) | {n: kept[n][indices] if n in kept else indices for n, indices in keep.items()}


def _bench(original: Base, judge: Evaluator, data: Dataset | None, options: dict[str, Any]) -> WorkerContext:
    return WorkerContext(original, judge, data, **options)


def evaluate_candidate(here: WorkerInfo, bench: WorkerContext, current: Base, request: Mapping[str, Any]) -> Made:
    """One job. `request`: `base` (what is cut: the current or the original model), `removed` (branches that go first),
    `keep` (channels by group), `mend`
    (whether to reconstruct), `training` (or None), `want` (`accuracy`, or the `model` alone; `solved`: the model
    that the original becomes with the channels of `keep`, all layers solved in order).

    A model comes back as a file when it is wanted or was trained.
    """
    base = bench.original if request["base"] == "original" else current
    keep = {name: np.array(indices, dtype=np.int64) for name, indices in request["keep"].items()}
    if request["want"] == "solved":
        return Made({}, {MODEL_FILE: bench.solved(keep, request["removed"]).SerializeToString()})
    base = base.without(request["removed"])
    proto = bench.cut(base, keep, mended=request["mend"])
    training = request["training"]
    if training is not None:
        proto = bench.trained(proto, msgspec.convert(training, Training), here, base)
    if request["want"] == "model":
        return Made({}, {MODEL_FILE: proto.SerializeToString()})
    files = {} if training is None else {MODEL_FILE: proto.SerializeToString()}
    return Made({"accuracy": bench.ranked(proto, base if training is None and not request["removed"] else None)}, files)
