"""What each sample contributes to a model's score, where that is a mean over samples. Imports no torch."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import onnx

from netadapt_onnx.data.dataset import Split
from netadapt_onnx.data.evaluate import labels_by_output, outputs
from netadapt_onnx.data.metrics import top_class
from netadapt_onnx.data.tasks import kind_of
from netadapt_onnx.graph.runtime import Arrays


def sample_scores(
    proto: onnx.ModelProto, split: Split, reference: Mapping[str, np.ndarray] | None = None, threads: int = 1
) -> np.ndarray | None:
    """The score of each sample of a split; the model's is their mean.

    Against class numbers a sample scores 1 if its top class is right, else 0. Against a reference it scores 1 less its
    squared error relative to the mean squared deviation of the reference's outputs: the mean is the share of their
    variance that the model explains (`evaluate.explained`); of integers, it scores the share that are equal.

    Args:
        proto: The model.
        split: The samples.
        reference: Outputs of another model for them, to compare with instead of labels, (len(split), ...) by name.
        threads: Of onnxruntime.

    Returns:
        (len(split),) in float64, the mean over outputs; None where a score is no such mean (mIoU, R2, a metric of the
        user's, outputs that are not finite or never vary), and where samples change each time that they are read.
    """
    labels = None if reference is not None else split.targets()
    if split.varies or (reference is None and (labels is None or split.user_metric is not None)):
        return None
    values = outputs(proto, split, threads=threads)
    if reference is not None:
        parts = [_explained(values[name], target) for name, target in reference.items()]
    else:
        assert labels is not None
        by_output = labels_by_output(labels, {name: value.shape for name, value in values.items()})
        parts = _correct(values, by_output)
    scores = [part for part in parts if part is not None]
    return np.mean(scores, axis=0) if scores and len(scores) == len(parts) else None


def _correct(values: Arrays, labels: Mapping[str, np.ndarray]) -> list[np.ndarray | None]:
    return [
        (top_class(_by_sample(values[name]), 1) == targets).astype(np.float64)
        if kind_of(targets.ndim, targets.dtype.kind == "f") == "classification"
        else None
        for name, targets in labels.items()
    ]


def _explained(value: np.ndarray, target: np.ndarray) -> np.ndarray | None:
    value, target = _by_sample(value), _by_sample(target)
    if target.dtype.kind in "iub":
        return np.asarray((value == target).mean(axis=1), dtype=np.float64)
    value, target = value.astype(np.float64), target.astype(np.float64)
    if not (np.isfinite(value).all() and np.isfinite(target).all()):
        return None
    spread = float(((target - target.mean()) ** 2).sum(axis=1).mean())
    errors = ((value - target) ** 2).sum(axis=1)
    return 1 - errors / spread if spread > 0 else None


def _by_sample(values: np.ndarray) -> np.ndarray:
    return values.reshape(len(values), -1)
