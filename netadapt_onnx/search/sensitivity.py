"""The accuracy that a model loses when one group alone is cut: what `inspect --sensitivity` shows."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from netadapt_onnx.common.parallel import in_order, spare_threads
from netadapt_onnx.data.load_dataset import load_dataset
from netadapt_onnx.graph.folded_model import require_runnable
from netadapt_onnx.search.calibrations import CALIBRATION_SAMPLES
from netadapt_onnx.search.evaluator import RANKING_SAMPLES, DataEvaluator
from netadapt_onnx.surgery.criteria.scores import Criterion
from netadapt_onnx.surgery.criteria.selection import select
from netadapt_onnx.surgery.groups import Group
from netadapt_onnx.surgery.reconstruct.gram import own_gram_matrices
from netadapt_onnx.surgery.reconstruct.least_squares import reconstruct
from netadapt_onnx.surgery.resize import resize
from netadapt_onnx.surgery.trace import Trace
from netadapt_onnx.training.data_criteria import criterion_on
from netadapt_onnx.training.settings import cores

SHARES = (0.75, 0.5, 0.25)


@dataclass(frozen=True)
class Sensitivity:
    """A group alone at `channels`, `share` of what it has: accuracy of the cut model on the ranking samples.

    `mended` is the accuracy after its consumers were reconstructed by least squares, as in a search, and `lost` the
    difference of that to the original's accuracy.
    """

    group: str
    channels: int
    share: float
    accuracy: float
    mended: float
    lost: float


@dataclass(frozen=True)
class Sensitivities:
    """Every prunable group at every share; `accuracy` is the original's on the same samples."""

    accuracy: float
    metric: str
    split: str
    samples: int
    groups: tuple[Sensitivity, ...]


def sensitivity(
    trace: Trace,
    data: str | os.PathLike[str],
    *,
    criterion: str | Criterion = "l2",
    seed: int = 0,
    shares: Sequence[float] = SHARES,
    progress: Callable[[int, int, str], None] | None = None,
) -> Sensitivities:
    """Cut each prunable group alone to `shares` of its channels, in structural steps, and evaluate the cut models.

    Args:
        trace: The traced model.
        data: The data, whose validation samples evaluate.
        criterion: Which channels stay.
        seed: The seed of every choice of samples.
        shares: The shares of channels that stay.
        progress: Gets the number of cuts that are done, the number of all cuts, and what is being done.

    Raises:
        NetadaptError: The data do not fit the model, or it cannot run.
    """
    require_runnable(trace.folded)
    dataset = load_dataset(trace.folded, data)
    proto = trace.folded.proto
    evaluator = DataEvaluator(dataset, proto, seed)
    inputs = dataset.train.sample(CALIBRATION_SAMPLES, seed).batch(slice(None))
    matrices = own_gram_matrices(trace, inputs, seed)
    by = criterion_on(criterion, dataset.train, seed)
    before = evaluator.sampled_accuracy(proto)
    work = [(group, share, count) for group in trace.prunable for share, count in _counts(group, shares).items()]
    done = 0

    def one(job: tuple[Group, float, int]) -> Sensitivity:
        nonlocal done
        group, share, count = job
        keep = select(trace, {group.name: count}, by)
        plain = evaluator.sampled_accuracy(resize(trace, keep))
        reconstructed = evaluator.sampled_accuracy(reconstruct(trace, keep, matrices))
        done += 1
        if progress is not None:
            progress(done, len(work), f"cutting groups: {group.name}")
        return Sensitivity(group.name, count, share, plain, reconstructed, before - reconstructed)

    with spare_threads(cores()):
        rows = tuple(in_order(one, work))
    return Sensitivities(before, evaluator.metric, "val", min(RANKING_SAMPLES, len(dataset.val)), rows)


def _counts(group: Group, shares: Sequence[float]) -> Mapping[float, int]:
    """The count at each share: the nearest whole steps above it, at least the floor; shares that cut nothing go."""
    counts = {share: max(group.floor, group.step * -int(-share * group.channels // group.step)) for share in shares}
    return {share: count for share, count in counts.items() if count < group.channels}
