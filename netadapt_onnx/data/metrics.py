"""Accuracy against labels, gathered batch by batch: top-1, R2, mean intersection over union. numpy alone.

The same numbers as torchmetrics' MulticlassAccuracy (micro), R2Score (variance weighted) and MulticlassJaccardIndex
(macro), which the tests compare; `evaluate` and `gate` run where neither it nor torch is installed.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np

from netadapt_onnx.data.source import Kind
from netadapt_onnx.data.tasks import UNLABELLED, class_axis

NO_CLASS = -1


@dataclass(frozen=True)
class AccuracyChange:
    """Fractions before and after; `metric` says of what, `split` of which samples."""

    before: float
    after: float
    metric: str
    split: str


class Meter(Protocol):
    """Takes outputs and labels of some samples at a time; `value` is the metric over all of them."""

    def update(self, output: np.ndarray, labels: np.ndarray) -> None: ...  # noqa: D102

    @property
    def value(self) -> float: ...  # noqa: D102


class Top1:
    """The share of samples whose top class is the labelled one. Shapes: (N, C) or (N, C, 1, ...), labels (N,)."""

    def __init__(self) -> None:
        self._hits = 0
        self._samples = 0

    def update(self, output: np.ndarray, labels: np.ndarray) -> None:
        """Count some samples."""
        self._hits += int((top_class(output.reshape(len(output), -1), 1) == labels).sum())
        self._samples += len(labels)

    @property
    def value(self) -> float:
        """In [0, 1]."""
        return self._hits / self._samples


class R2:
    """1 - squared error / squared deviation from the mean; both are summed over all values of a sample.

    Each value of a sample (a column) has its own mean, so that knowing which column is large counts for nothing. What
    is not finite is as good as the mean. At most 1; below 0 where the mean would have been a better answer.
    """

    def __init__(self) -> None:
        self._samples = 0
        self._mean = self._spread = self._error = np.zeros(1)
        # Of the answers that are no numbers: how many, and the sums of their labels and squared labels.
        self._lost = np.zeros((3, 1))

    def update(self, output: np.ndarray, labels: np.ndarray) -> None:
        """Add some samples. Shapes: labels (N, ...), output with as many values."""
        targets = labels.reshape(len(labels), -1).astype(np.float64)
        values = output.reshape(len(labels), -1).astype(np.float64)
        # Chan et al., 1979: the spread of two parts about their common mean.
        count = len(targets)
        mean = targets.mean(0)
        apart = mean - self._mean
        total = self._samples + count
        self._spread = self._spread + (((targets - mean) ** 2).sum(0) + apart**2 * (self._samples * count / total))
        self._mean = self._mean + apart * (count / total)
        self._samples = total
        finite = np.isfinite(values)
        self._error = self._error + (np.where(finite, values - targets, 0.0) ** 2).sum(0)
        lost = [(w * ~finite).sum(0) for w in (np.ones_like(targets), targets, targets**2)]
        self._lost = self._lost + np.stack(lost)

    @property
    def value(self) -> float:
        """At most 1. Labels that never change: 1 if they are met, else 0."""
        number, first, second = self._lost
        error = float((self._error + second - 2 * self._mean * first + number * self._mean**2).sum())
        spread = float(self._spread.sum())
        if spread <= 0:
            return float(error <= 0)
        return 1 - error / spread


class MeanIoU:
    """Intersection over union of labelled and answered positions, the mean over classes that occur in either.

    Shapes: labels (N, *positions), output (N, C, *positions) or (N, *positions, C). 255 in labels does not count.
    """

    def __init__(self) -> None:
        self._both = self._labelled = self._answered = np.zeros(1, np.int64)

    def update(self, output: np.ndarray, labels: np.ndarray) -> None:
        """Count some samples."""
        axis = class_axis(labels.shape, output.shape)
        assert axis is not None
        classes = output.shape[axis]
        is_labelled = labels != UNLABELLED if classes <= UNLABELLED else np.ones(labels.shape, bool)
        top, targets = top_class(output, axis)[is_labelled], labels[is_labelled]
        self._both = self._both + np.bincount(targets[top == targets], minlength=classes)
        self._labelled = self._labelled + np.bincount(targets, minlength=classes)
        self._answered = self._answered + np.bincount(top[top != NO_CLASS], minlength=classes)

    @property
    def value(self) -> float:
        """In [0, 1]; 0 where nothing is labelled."""
        union = self._labelled + self._answered - self._both
        return float((self._both[union > 0] / union[union > 0]).mean()) if union.any() else 0.0


METERS: dict[Kind, type[Top1] | type[R2] | type[MeanIoU]] = {
    "classification": Top1,
    "regression": R2,
    "segmentation": MeanIoU,
}


def top_class(scores: np.ndarray, axis: int) -> np.ndarray:
    """The top class along an axis; NO_CLASS where its score is not a number (argmax alone would pick the first NaN).

    A class at minus infinity is merely ruled out, as the logarithm of a softmax that underflowed.
    """
    top: np.ndarray = np.where(np.isfinite(scores.max(axis)), scores.argmax(axis), NO_CLASS)
    return top
