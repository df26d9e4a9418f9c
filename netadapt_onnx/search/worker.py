"""The work of a proposal's job: cut a model, reconstruct its layers or train it, and evaluate it.

All of it depends on the request and on two shared values, the run's context and the model that is cut, so it comes to
the same in our own process, in another, and on another machine.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import replace
from threading import Lock
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np
import onnx

from netadapt_onnx.common.memory import return_free_memory
from netadapt_onnx.common.parallel import in_order
from netadapt_onnx.data.dataset import Dataset
from netadapt_onnx.graph.fold_shapes import fold
from netadapt_onnx.search.calibrations import CALIBRATION_SAMPLES, Calibrations
from netadapt_onnx.search.channel_selection import BaseModel, KeptIndices, kept_after
from netadapt_onnx.search.evaluator import RANKING_SAMPLES, DataEvaluator, Evaluator
from netadapt_onnx.search.executors.protocol import JobResult, WorkerInfo
from netadapt_onnx.search.jobs import CutRequest, EvaluationRequest, ShortTraining, SolveRequest
from netadapt_onnx.search.race import RankedModel, better
from netadapt_onnx.search.run_directory.file_names import MODEL_FILE
from netadapt_onnx.search.width_program import Losses
from netadapt_onnx.surgery.criteria.elimination import Elimination
from netadapt_onnx.surgery.criteria.obs import eliminations
from netadapt_onnx.surgery.reconstruct.gram import (
    GramCache,
    GramMatrices,
    gram_matrices,
    own_gram_matrices,
)
from netadapt_onnx.surgery.reconstruct.least_squares import kept_outputs, reconstruct, reconstruct_in_order
from netadapt_onnx.surgery.resize import resize

if TYPE_CHECKING:
    from netadapt_onnx.training.distillation import TeacherSource
    from netadapt_onnx.training.settings import Settings

# Models that lost a branch are solved as a whole to be ranked, on so many: a ResNet-20 without its first block then
# comes to 86.9% instead of 87.2%, in half the time; solved in one pass, as those that lost channels are, to 59.9%. A
# quarter of the positions, too: six such models come to 82.8% on average, to 82.9% on all, in 1.6 s instead of 2.0.
BRANCH_SAMPLES = 256
# Cuts of channels are ranked on so many: a ResNet-20's groups cut to half come within 0.8 points of what they come to
# on all samples, 0.02 on average, in half the time.
RANKED_SAMPLES = 512


class WorkerContext:
    """What all jobs of a run work with.

    As bytes it holds only the samples that they look at: all of the training samples if they train, else those of the
    calibration, and those that rank.
    """

    def __init__(
        self,
        original: BaseModel,
        evaluator: Evaluator,
        data: Dataset | None,
        *,
        seed: int,
        trains: bool,
        shapes: Mapping[str, tuple[int, ...]],
        batch_size: int,
    ) -> None:
        """Prepare nothing yet.

        Args:
            original: The original model.
            evaluator: Evaluates models.
            data: The samples; None if the caller's function evaluates.
            seed: The seed of every choice of samples.
            trains: Whether jobs train.
            shapes: The shapes of inputs that the user has fixed.
            batch_size: The length of a dynamic first axis.
        """
        self.original = original
        self._evaluator = evaluator
        self._data = data
        self._seed = seed
        self._trains = trains
        self._shapes = dict(shapes)
        self._batch_size = batch_size
        self._calibrations = Calibrations(None if data is None else data.train, seed)
        self._gram_lock = Lock()
        self._gram_cache = GramCache()
        self._eliminations: Mapping[str, Elimination] | None = None
        self._teacher: TeacherSource | None = None
        self._teacher_lock = Lock()

    def rest(self) -> None:
        """Let go of memory that is of no use until the next proposals: a training may need it."""
        self.original.rest()
        self._calibrations.rest()
        return_free_memory()

    def cut(self, base: BaseModel, keep: KeptIndices, *, reconstructs: bool) -> RankedModel:
        """A model cut to some of its channels.

        Where branches have just been removed everything behind them is made up for, one layer after the other.

        Args:
            base: The model to cut.
            keep: The channels that stay, by group.
            reconstructs: Whether the layers behind the cut are reconstructed, if there is data to do it with.
        """
        if self._data is None or not reconstructs:
            return RankedModel(resize(base.trace, keep))
        if base.changed and not base.trained:
            return self.solve(kept_after(base.kept, keep), base.removed, BRANCH_SAMPLES)
        return RankedModel(reconstruct(base.trace, keep, self.gram_matrices(base), base.changed))

    def gram_matrices(self, base: BaseModel) -> dict[str, GramMatrices]:
        """The matrices that a cut of `base` is reconstructed with, by layer; computed on first use."""
        return base.gram_matrices(lambda: self._compute_gram_matrices(base))

    def _compute_gram_matrices(self, base: BaseModel) -> dict[str, GramMatrices]:
        if base.trained:
            return gram_matrices(base.trace, *self._calibrations.of(base.trace, RANKED_SAMPLES))
        inputs, targets = self._calibrations.of_original(self.original.trace, RANKED_SAMPLES)
        with self._gram_lock:
            outputs = kept_outputs(self.original.trace, base.kept)
            return gram_matrices(base.trace, inputs, targets, outputs, self._gram_cache)

    def solve(
        self, kept: KeptIndices, removed: Collection[str] = (), samples: int = CALIBRATION_SAMPLES
    ) -> RankedModel:
        """The original without some branches, cut to these channels, its layers solved one after the other.

        Each layer is solved for what the layers before it now compute: ResNet-20 at half its macs kept 78.8% instead of
        73.1% so (4 s), too slow for every proposal.

        Where branches are gone, layers that lost no inputs may be better off as they are, for a network makes up for
        some of it by itself: EfficientNet-Lite0 without two branches agrees with the original on 90 of 100 pictures,
        and on 81 once all layers behind are solved on 256; ResNet-20 without two is right on 30% of its pictures, and
        on 77%. So the samples that rank proposals decide.
        """
        base = self.original.without(removed)
        groups = {group.name for group in base.trace.groups}
        kept = {name: indices for name, indices in kept.items() if name in groups}
        if self._data is None:
            return RankedModel(resize(base.trace, kept))
        inputs, targets = self._calibrations.of_original(self.original.trace, samples)

        def solved(only_cut: bool) -> onnx.ModelProto:
            return reconstruct_in_order(base.trace, kept, inputs, targets, base.changed, only_cut=only_cut)

        if not base.changed or not isinstance(self._evaluator, DataEvaluator):
            return RankedModel(solved(False))
        of_all, of_cut = in_order(solved, (False, True))
        return better(of_all, of_cut, self._evaluator)

    def train(
        self, proto: onnx.ModelProto, training: ShortTraining, worker: WorkerInfo, base: BaseModel | None = None
    ) -> onnx.ModelProto:
        """A model after a short distillation from the original; `base` is the model that it is a cut of."""
        from netadapt_onnx.training.callbacks import TrainingCallbacks
        from netadapt_onnx.training.options import TrainingOptions
        from netadapt_onnx.training.trainer import train

        assert self._data is not None
        if not training.steps:
            return proto
        proto = fold(proto, self._shapes, self._batch_size).proto
        uncut = None if base is None else base.trace.folded.proto
        return train(
            proto,
            self._data,
            TrainingOptions(
                steps=training.steps,
                lr=training.lr,
                seed=self._seed,
                settings=training.settings,
                threads=worker.threads,
            ),
            teacher=self._teacher_of(training.settings),
            uncut=uncut,
            callbacks=TrainingCallbacks(progress=lambda *_: worker.check()),
        ).proto

    def _teacher_of(self, settings: Settings) -> TeacherSource:
        """The original, or what it says of training samples: the same for all short trainings, which share a seed."""
        from netadapt_onnx.training.distillation import shared_targets

        assert self._data is not None
        original = self.original.trace.folded.proto
        if self._data.user.training is not None:
            return original
        with self._teacher_lock:
            if self._teacher is None:
                self._teacher = shared_targets(original, self._data.train, settings, self._seed)
            return self._teacher

    def ranking_accuracy(self, proto: onnx.ModelProto, base: BaseModel | None = None) -> float:
        """The accuracy that proposals are compared by; `base`: the model that `proto` is a cut of, and no more."""
        if base is None or not isinstance(self._evaluator, DataEvaluator):
            return self._evaluator.ranking_accuracy(proto)
        return self._evaluator.ranking_accuracy(proto, base.prefixes(self._evaluator))

    def fidelity(self, proto: onnx.ModelProto, base: BaseModel | None = None) -> float:
        """The share of the variance of the original's outputs that a model's explain; the accuracy without data."""
        if base is None or not isinstance(self._evaluator, DataEvaluator):
            return self._evaluator.fidelity(proto)
        return self._evaluator.fidelity(proto, base.prefixes(self._evaluator))

    @property
    def ranks_by_fidelity(self) -> bool:
        """Whether what ranks proposals is their fidelity."""
        return isinstance(self._evaluator, DataEvaluator) and self._evaluator.ranks_by_fidelity

    def error_curves(self) -> Losses:
        """By group, the error on held-out samples when 0, 1, 2 ... of the original's channels are gone."""
        return {name: elimination.curve for name, elimination in self.eliminations().items()}

    def eliminations(self) -> Mapping[str, Elimination]:
        """In which order the original's channels go, and the errors on held-out samples; computed on first use."""
        assert self._data is not None
        if self._eliminations is None:
            trace, inputs = self.original.trace, self._data.val.sample(BRANCH_SAMPLES, self._seed).batch(slice(None))
            held_out = own_gram_matrices(trace, inputs, self._seed)
            self._eliminations = eliminations(trace, self.gram_matrices(self.original), held_out)
        return self._eliminations

    def __reduce__(self) -> tuple[Any, ...]:
        data, evaluator = self._data, self._evaluator
        if data is not None:
            train = data.train if self._trains else data.train.sample(CALIBRATION_SAMPLES, self._seed)
            ranking = data.val.sample(RANKING_SAMPLES, self._seed)
            data = replace(data, train=train.compact(), val=ranking.compact(), test=None)
            if isinstance(evaluator, DataEvaluator):
                evaluator = replace(evaluator, dataset=data)
        options = {
            "seed": self._seed,
            "trains": self._trains,
            "shapes": self._shapes,
            "batch_size": self._batch_size,
        }
        return _unpacked, (self.original, evaluator, data, options)


def _unpacked(
    original: BaseModel, evaluator: Evaluator, data: Dataset | None, options: dict[str, Any]
) -> WorkerContext:
    return WorkerContext(original, evaluator, data, **options)


def evaluate_proposal(
    worker: WorkerInfo, context: WorkerContext, current: BaseModel, request: Mapping[str, Any]
) -> JobResult:
    """Do an `EvaluationRequest`: the result is the proposal's accuracy, and its model if it was trained."""
    evaluation = msgspec.convert(request, EvaluationRequest)
    base, keep = _base(context, current, evaluation), _indices(evaluation.keep)
    if evaluation.in_order:
        model = context.solve(keep, evaluation.removed, RANKED_SAMPLES)
    else:
        model = context.cut(base, keep, reconstructs=evaluation.reconstruct)
    proto = model.proto
    cut_from = None if evaluation.removed or evaluation.in_order else base
    if evaluation.measure == "fidelity":
        fidelity = model.accuracy if context.ranks_by_fidelity else None
        return JobResult({"accuracy": context.fidelity(proto, cut_from) if fidelity is None else fidelity})
    if evaluation.training is None:
        accuracy = context.ranking_accuracy(proto, cut_from) if model.accuracy is None else model.accuracy
        return JobResult({"accuracy": accuracy})
    proto = context.train(proto, evaluation.training, worker, base)
    return JobResult({"accuracy": context.ranking_accuracy(proto)}, {MODEL_FILE: proto.SerializeToString()})


def cut_model(worker: WorkerInfo, context: WorkerContext, current: BaseModel, request: Mapping[str, Any]) -> JobResult:
    """Do a `CutRequest`: the result is the cut model."""
    cut = msgspec.convert(request, CutRequest)
    proto = context.cut(_base(context, current, cut), _indices(cut.keep), reconstructs=cut.reconstruct).proto
    return JobResult({}, {MODEL_FILE: proto.SerializeToString()})


def solve_model(
    worker: WorkerInfo, context: WorkerContext, current: BaseModel, request: Mapping[str, Any]
) -> JobResult:
    """Do a `SolveRequest`: the result is the original cut to its channels, all layers solved in order."""
    solve = msgspec.convert(request, SolveRequest)
    proto = context.solve(_indices(solve.keep), solve.removed).proto
    return JobResult({}, {MODEL_FILE: proto.SerializeToString()})


def _base(context: WorkerContext, current: BaseModel, request: CutRequest | EvaluationRequest) -> BaseModel:
    return (context.original if request.base == "original" else current).without(request.removed)


def _indices(keep: Mapping[str, list[int]]) -> dict[str, np.ndarray]:
    return {name: np.array(indices, dtype=np.int64) for name, indices in keep.items()}
