"""Training: a model goes in, and the same one with better weights comes out."""

from __future__ import annotations

import hashlib
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import onnx

from netadapt_onnx.data.dataset import Dataset
from netadapt_onnx.errors import NetadaptError, invalid_data, one_line
from netadapt_onnx.graph.weightless import without_weights
from netadapt_onnx.training import batchnorm
from netadapt_onnx.training.batch_plan import BatchPlan
from netadapt_onnx.training.callbacks import Epoch, TrainingCallbacks
from netadapt_onnx.training.checkpoint import Checkpoint
from netadapt_onnx.training.choose_settings import settings_for
from netadapt_onnx.training.distillation import TeacherSource, distillation_targets
from netadapt_onnx.training.feature_matching import FeatureLoss, MatchedFeature, matched_features, with_outputs
from netadapt_onnx.training.length import BATCH_SIZE
from netadapt_onnx.training.loop import Loop
from netadapt_onnx.training.lr_range_test import RangeTest, range_test
from netadapt_onnx.training.memory import fitting_batch_size, halve_batch, in_whole_batches, out_of_memory
from netadapt_onnx.training.options import TrainingOptions
from netadapt_onnx.training.placement import repeatable, require
from netadapt_onnx.training.recipe import DivergedError, Recipe
from netadapt_onnx.training.remembered_answers import MOST_BYTES, bytes_per_sample
from netadapt_onnx.training.replicas import DistillationTargets, Replicas, one_thread
from netadapt_onnx.training.settings import Settings, describe
from netadapt_onnx.training.torch_graph import TorchGraph
from netadapt_onnx.training.train_by_function import train_by_function
from netadapt_onnx.training.trainable import TrainableNetwork, trainable_network
from netadapt_onnx.training.validation import BestWeights, Evaluation, State, Validation
from netadapt_onnx.training.views import Views

# 780 steps of a ResNet-20 that lost half its filters: 0.02 and 0.05 are equal, 0.15 loses 0.6 points.
LEARNING_RATE = 0.05
# Networks without BatchNorm stand a tenth of the rate.
UNNORMALISED_SHARE = 0.1
# AdamW's steps are as long as its rate, whatever the gradient; SGD's usual rates would throw every weight away.
ADAMW_SHARE = 0.02


@dataclass(frozen=True)
class TrainResult:
    """What a training came to.

    Attributes:
        proto: The model with the trained weights; nothing else has changed. The very model that was trained, where
            held-out data liked none of its later states as much.
        history: Its epochs.
        settings: How this machine trained; passed to `train` again they repeat the training exactly.
        lr: The highest learning rate that was used in the end: halved once if the first attempt diverged.
        batch_size: Samples a step, as many as fitted into memory.
        lr_test: The range test that chose the learning rate, if `lr` was "auto".
        share: The share of the steps that fitted into the time, in [0, 1].
        evaluations: What held-out data said, that of the model before the training first; none without a validation.
    """

    proto: onnx.ModelProto
    history: tuple[Epoch, ...]
    settings: Settings
    lr: float
    batch_size: int = BATCH_SIZE
    lr_test: RangeTest | None = None
    share: float = 1.0
    evaluations: tuple[Evaluation, ...] = ()


@dataclass(frozen=True)
class _Job:
    """A training with everything fixed but its batch size, its settings and its learning rate."""

    model: onnx.ModelProto

    network: TrainableNetwork
    dataset: Dataset
    teacher: TeacherSource | None
    options: TrainingOptions
    callbacks: TrainingCallbacks
    checkpoint: Checkpoint
    validation: Validation | None
    features: tuple[MatchedFeature, ...] = ()

    def plan(self, batch_size: int) -> BatchPlan:
        """The batches of one size."""
        return BatchPlan.of(self.options, self.dataset.train, batch_size)

    @property
    def first_batch_size(self) -> int:
        """The size that was chosen, by the caller or by a run before; else what should fit into memory."""
        split, needs, chosen = self.dataset.train, self.network.needs, self.options.batch_size
        size = min(chosen, len(split)) if chosen is not None else fitting_batch_size(needs, split)
        return in_whole_batches(self.checkpoint.content.get("batch", size), needs.only_batch)


def train(
    proto: onnx.ModelProto,
    dataset: Dataset,
    options: TrainingOptions,
    *,
    teacher: TeacherSource | None = None,
    uncut: onnx.ModelProto | None = None,
    checkpoint: Path | None = None,
    callbacks: TrainingCallbacks | None = None,
    validation: Validation | None = None,
) -> TrainResult:
    """Train a model on the training split of a data set.

    With a teacher it distils (0.9, and 0.1 of the labels' loss where there are labels), else it needs labels. Graphs
    that arrive with BatchNorm folded away get it back for the training and return folded. The result is a function of
    the seed and the settings. If the training diverges it starts again at half the learning rate, once.

    Args:
        proto: The model, normalised.
        dataset: Its `train` split is trained on; a training function of the user's takes the place of this one.
        options: What is trained, how long and how.
        teacher: A model, or a function of inputs (tensors by name), row numbers and settings that returns output
            tensors by name, samples first (`shared_targets`, for several trainings); a training function of the user's
            takes a model only.
        uncut: The model that `proto` was cut from, whose statistics its BatchNorms get; None: the teacher, if it is a
            model.
        checkpoint: A file that keeps what was chosen and the last saved state: killed at any moment, the same call goes
            on from there to the same bits. The caller removes the file.
        callbacks: Who follows the training, and how much time it has.
        validation: Evaluates it on held-out data: what it likes best is the result. None: that is the last state.

    Raises:
        NetadaptError: Operators without a torch function, neither labels nor a teacher, divergence at half the learning
            rate too, a batch of one sample with BatchNorm, too little memory for any batch, another training's
            checkpoint.
    """
    _require_goal(dataset, options, teacher)
    identity = {} if checkpoint is None else _identity(proto, dataset, options, teacher)
    store = Checkpoint(checkpoint, identity)
    if "settings" in store.content:
        options = replace(options, settings=Settings(**store.content["settings"]))
    with one_thread():
        uncut = uncut or (teacher if isinstance(teacher, onnx.ModelProto) else None)
        network = trainable_network(proto, dataset, uncut=uncut, batch_size=options.batch_size, seed=options.seed)
        features, views = _remembered(proto, network, dataset, options, teacher)
        options = replace(options, views=views)
        job = _Job(
            proto, network, dataset, teacher, options, callbacks or TrainingCallbacks(), store, validation, features
        )
        if dataset.user.training is not None:
            return _train_by_user(job)
        return _train_within_memory(job)


def _require_goal(dataset: Dataset, options: TrainingOptions, teacher: TeacherSource | None) -> None:
    if (options.epochs is None) == (options.steps is None):
        raise NetadaptError("training needs either epochs or steps")
    if dataset.train.labels is None and teacher is None and dataset.user.training is None:
        raise invalid_data("training needs labels or a teacher")


def _remembered(
    proto: onnx.ModelProto,
    network: TrainableNetwork,
    dataset: Dataset,
    options: TrainingOptions,
    teacher: TeacherSource | None,
) -> tuple[tuple[MatchedFeature, ...], Views]:
    """The features that are matched and the views that are shown: as many as there is memory for their answers."""
    if not isinstance(teacher, onnx.ModelProto):
        return (), options.views
    split = dataset.train
    matches = options.matches_features and network.needs.only_batch is None
    features = matched_features(proto, teacher, split) if matches else ()
    for candidates in (features, ()):
        fitting = MOST_BYTES // max(1, len(split) * bytes_per_sample(network.needs.shapes, candidates))
        if fitting:
            return candidates, options.views.within(fitting)
    return (), Views()


def _identity(
    proto: onnx.ModelProto, dataset: Dataset, options: TrainingOptions, teacher: TeacherSource | None
) -> dict[str, object]:
    """What a checkpoint must agree with."""
    return {
        "model": _hash(proto),
        "teacher": _hash(teacher) if isinstance(teacher, onnx.ModelProto) else None,
        "data": f"{dataset.sha256}, {len(dataset.train)} samples",
        **options.identity,
    }


def _hash(proto: onnx.ModelProto) -> str:
    digest = hashlib.sha256(without_weights(proto).SerializeToString(deterministic=True))
    for tensor in proto.graph.initializer:
        digest.update(tensor.SerializeToString(deterministic=True))
    return digest.hexdigest()


def _train_by_user(job: _Job) -> TrainResult:
    """Call the user's own training function."""
    options, plan = job.options, job.plan(job.first_batch_size)
    lr = options.lr if isinstance(options.lr, float | int) else _usual_lr(job.network.graph, plan, options.recipe)
    teacher = job.teacher if isinstance(job.teacher, onnx.ModelProto) else None
    trained = train_by_function(
        job.dataset.user, job.network.proto, teacher, steps=plan.steps, lr=lr, seed=options.seed
    )
    return TrainResult(batchnorm.fold(trained), (), options.settings or Settings(), lr, plan.batch_size)


def _train_within_memory(job: _Job) -> TrainResult:
    """Train; start again with half the batch size whenever memory runs out."""
    needs, size = job.network.needs, job.first_batch_size
    while True:
        try:
            return _train_with(job, job.plan(size))
        except (MemoryError, RuntimeError) as error:
            if not out_of_memory(error):
                raise
        size = halve_batch(size, bool(job.network.graph.statistics), job.callbacks.log, needs.only_batch or 1)
        job.checkpoint.put(batch=size, attempt=0, start=None, loop=None)


def _train_with(job: _Job, plan: BatchPlan) -> TrainResult:
    """Train with batches of one size, in the settings of the options or else the fastest."""
    network, settings = job.network, job.options.settings
    if settings is None:
        teacher = job.teacher if isinstance(job.teacher, onnx.ModelProto) else None
        settings = settings_for(network, plan.split, plan.batch_size, plan.seed, teacher=teacher, log=job.callbacks.log)
        job.checkpoint.put(settings=asdict(settings))
    require(settings)
    try:
        with (
            repeatable(settings),
            Replicas(
                with_outputs(network.proto, [one.name for one in job.features]),
                settings,
                FeatureLoss(network.loss, job.features) if job.features else network.loss,
                _targets(job, plan, settings),
                job.options.threads,
                network.needs.only_batch,
                fixed_statistics=job.options.fixes_statistics,
            ) as replicas,
        ):
            return _attempt_twice(job, plan, replicas)
    except RuntimeError as error:
        if out_of_memory(error) or settings == replace(settings, dtype="float32", channels_last=False):
            raise
        raise NetadaptError(
            f"training in {describe(settings)} failed: {one_line(error, 160)}",
            hint="were these settings chosen on another machine? Begin anew here, or go on there",
            code="training",
        ) from error


def _targets(job: _Job, plan: BatchPlan, settings: Settings) -> DistillationTargets | None:
    """What gives the training its targets; None without a teacher."""
    teacher, needs = job.teacher, job.network.needs
    if not isinstance(teacher, onnx.ModelProto):
        return teacher
    return distillation_targets(
        teacher,
        plan.split,
        settings,
        needs.shapes,
        plan.order(),
        features=job.features,
        pair_offset=plan.samples if plan.views.pairs_agree else None,
        varies=not job.features and (plan.augment or plan.split.varies),
    )


def _attempt_twice(job: _Job, plan: BatchPlan, replicas: Replicas) -> TrainResult:
    """Train; if that diverges, again at half the learning rate, from the best weights so far."""
    proto, recipe, callbacks, store = job.network.proto, job.options.recipe, job.callbacks, job.checkpoint
    lr, lr_test = _learning_rate(job, plan, replicas)
    if store.content.get("start") is not None:
        replicas.restore(store.content["start"])
    for attempt in range(store.content.get("attempt") or 0, 2):
        rate = lr / 2**attempt
        best = _best_weights(job, replicas)
        loop = Loop(replicas, plan, recipe, rate, averages=job.options.averages, best=best)
        if store.content.get("loop") is not None:
            loop.resume(store.content["loop"])
        try:
            loop.run(callbacks, (lambda state: store.put(loop=state)) if store.on_disk else None)
        except DivergedError:
            store.put(loop=None, attempt=1, start=replicas.main.state())
            continue
        state = loop.result
        return TrainResult(
            job.model if state is None else batchnorm.fold(replicas.main.write_back(proto, state)),
            tuple(loop.history),
            replicas.settings,
            rate,
            plan.batch_size,
            lr_test,
            loop.share,
            () if best is None else tuple(best.evaluations),
        )
    raise NetadaptError(
        f"training diverged, also at half the learning rate ({lr / 2:g})", hint="give a smaller --lr", code="diverged"
    )


def _best_weights(job: _Job, replicas: Replicas) -> BestWeights | None:
    """What evaluates a training; None without a validation."""
    validation = job.validation
    if validation is None:
        return None

    def score(state: State) -> float:
        return validation.accuracy(batchnorm.fold(replicas.main.write_back(job.network.proto, state)))

    return BestWeights(validation, score)


def _learning_rate(job: _Job, plan: BatchPlan, replicas: Replicas) -> tuple[float, RangeTest | None]:
    """The highest learning rate of the first attempt, and the range test that found it, if any did."""
    lr, store = job.options.lr, job.checkpoint
    usual = _usual_lr(replicas.main, plan, job.options.recipe) * job.options.lr_share
    if store.content.get("test") is not None:
        test = RangeTest(**store.content["test"])
        return test.chosen, test
    if lr == "auto" and plan.steps:
        test = range_test(replicas, plan, job.options.recipe, usual)
        store.put(test=asdict(test))
        return test.chosen, test
    return (lr if isinstance(lr, float | int) else usual), None


def _usual_lr(graph: TorchGraph, plan: BatchPlan, recipe: Recipe) -> float:
    """The usual learning rate of this kind of network and, in proportion, of a smaller batch."""
    share = 1.0 if graph.statistics else UNNORMALISED_SHARE
    share *= ADAMW_SHARE if recipe.optimizer == "adamw" else 1.0
    return LEARNING_RATE * share * min(1.0, plan.batch_size / BATCH_SIZE)
