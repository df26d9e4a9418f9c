"""Samples in splits, handed out in batches as the model takes them. `load_dataset` makes them. Imports no torch."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal, Protocol

import numpy as np

from netadapt_onnx.data.batch_layout import Layout
from netadapt_onnx.data.tasks import METRICS, kind_of
from netadapt_onnx.errors import invalid_data
from netadapt_onnx.graph.runtime import Arrays

SPLITS = ("train", "val", "test")
VALIDATION_SHARE = 0.1
VALIDATION_SEED = 0


class LazyArray(Protocol):
    """An array, or what returns rows when it is indexed like one: a file, a folder of pictures, a loader."""

    @property
    def shape(self) -> tuple[int, ...]: ...  # noqa: D102

    @property
    def dtype(self) -> np.dtype[Any]: ...  # noqa: D102

    def __len__(self) -> int: ...

    def __getitem__(self, rows: Any, /) -> Any: ...


# One array where one output is labelled, else an array by output name. Floats are values, integers class numbers.
Labels = np.ndarray | Mapping[str, np.ndarray]
LazyLabels = LazyArray | Mapping[str, LazyArray]


@dataclass(frozen=True)
class Scaling:
    """`(x / 255 - mean) / std` for uint8 images, in the model's `dtype`; both arrays broadcast to one sample."""

    mean: np.ndarray
    std: np.ndarray
    dtype: np.dtype[Any] = field(default_factory=lambda: np.dtype(np.float32))

    def __call__(self, values: np.ndarray) -> np.ndarray:
        """Bytes as floats, the same shape."""
        scaled = values.astype(np.float32)
        scaled *= 1 / (255 * self.std)
        scaled -= self.mean / self.std
        return scaled.astype(self.dtype, copy=False)


@dataclass(frozen=True)
class UserMetric:
    """A metric of the user's: outputs by name and labels of a whole split in, a number out. Higher is better."""

    name: str
    function: Callable[[Arrays, Any], float]


@dataclass(frozen=True)
class UserFunctions:
    """What the user's file brings besides loaders and a metric: a loss, and a function that trains.

    Attributes:
        name: "FILE.py:FUNCTION".
        loss: Called as `loss(outputs, labels)`, outputs being tensors by name; returns a scalar tensor.
        training: Called as `training(module, teacher=, steps=, lr=, seed=)`; changes the module's parameters.
    """

    name: str = ""
    loss: Callable[[Any, Any], Any] | None = None
    training: Callable[..., Any] | None = None


@dataclass(frozen=True)
class Split:
    """Samples of one split, as stored; `batch` hands them out as the model takes them.

    Attributes:
        inputs: All stored samples, (N, ...) by input name.
        labels: Labels of all stored samples, (N, ...); None: there are none.
        scaling: How bytes become floats, by input name.
        rows: The stored samples that belong to the split, selected without a copy; None: all.
        user_metric: Takes the place of the metric that the labels ask for.
        varies: Whether a sample changes each time it is read (a loader that augments): nothing may be remembered of it.
        layout: Where the model's outputs hold their samples; None: along the first axis of each.
    """

    inputs: Mapping[str, LazyArray]
    labels: LazyLabels | None = None
    scaling: Mapping[str, Scaling] = field(default_factory=dict)
    rows: np.ndarray | None = None
    user_metric: UserMetric | None = None
    varies: bool = False
    layout: Layout | None = None

    def __len__(self) -> int:
        return len(next(iter(self.inputs.values()))) if self.rows is None else len(self.rows)

    @property
    def metric(self) -> str:
        """What accuracy on this split is: top1, r2, miou, several of them joined by + (their mean), or agreement."""
        if self.user_metric is not None:
            return self.user_metric.name
        if self.labels is None:
            return "agreement"
        arrays = _label_arrays(self.labels)
        return "+".join(dict.fromkeys(METRICS[kind_of(len(a.shape), a.dtype.kind == "f")] for a in arrays))

    def _stored(self, index: np.ndarray | slice) -> np.ndarray | slice:
        """Where the samples at `index` are stored."""
        return index if self.rows is None else self.rows[index]

    def batch(self, index: np.ndarray | slice) -> Arrays:
        """Inputs of the samples at `index`, scaled, (len(index), ...) by name."""
        rows = self._stored(index)
        return {
            name: self.scaling[name](values[rows]) if name in self.scaling else _read(values, rows)
            for name, values in self.inputs.items()
        }

    def targets(self, index: np.ndarray | slice = slice(None)) -> Labels | None:
        """Labels of the samples at `index`, (len(index), ...): int64 class numbers or float32 values."""
        rows = self._stored(index)
        return map_labels(self.labels, lambda values: _read_labels(values, rows))

    def subset(self, index: np.ndarray | slice) -> Split:
        """The samples at `index`, as a split of their own that shares the storage."""
        rows = np.arange(len(self)) if self.rows is None else self.rows
        return replace(self, rows=rows[index])

    def compact(self) -> Split:
        """The same samples as arrays of their own, so that a pickled split holds no others."""
        if self.rows is None and all(type(values) is np.ndarray for values in self.inputs.values()):
            return self
        rows = self._stored(slice(None))
        labels = map_labels(self.labels, lambda values: np.array(values[rows]))
        inputs = {name: np.array(values[rows]) for name, values in self.inputs.items()}
        return replace(self, inputs=inputs, labels=labels, rows=None, varies=False)

    def sample(self, count: int, seed: int = 0) -> Split:
        """A seeded subset of at most `count` samples, in storage order."""
        return self if count >= len(self) else self.subset(self.sampled_rows(count, seed))

    def sampled_rows(self, count: int, seed: int = 0) -> np.ndarray:
        """The numbers of the samples that `sample` draws, rising."""
        return np.sort(np.random.default_rng(seed).permutation(len(self))[:count])

    def batches(self, size: int) -> Iterator[tuple[Arrays, Labels | None]]:
        """All samples in order, in batches of at most `size`, with their labels."""
        for start in range(0, len(self), size):
            index = slice(start, start + size)
            yield self.batch(index), self.targets(index)


@dataclass(frozen=True)
class Dataset:
    """The splits of one source of data.

    Attributes:
        train: Without training samples, an empty split.
        val: Validation samples, which choices are made by.
        test: Used once, for the accuracy that results quote; None: there are none.
        path: The source.
        sha256: Identifies the data and how they are read.
        val_from_train: Whether the validation samples were taken out of the training data (10%, stratified, seed 0).
        user: The user's own loss and training function.
        options: How the data are read, where the user chose that.
        notes: What a user should know of the data.
    """

    train: Split
    val: Split
    test: Split | None = None
    path: str = ""
    sha256: str = ""
    val_from_train: bool = False
    user: UserFunctions = field(default_factory=UserFunctions)
    options: Mapping[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    @property
    def final_split(self) -> tuple[str, Split]:
        """The split whose accuracy results quote, with its name: `test` if there is one, else `val`."""
        return ("val", self.val) if self.test is None else ("test", self.test)

    def split(self, name: Literal["val", "test"]) -> Split:
        """The samples of a split.

        Raises:
            NetadaptError: The data have none.
        """
        split = self.test if name == "test" else self.val
        if split is None or not len(split):
            raise invalid_data(f"--data {self.path} has no {name} samples", "choose another --split")
        return split

    @property
    def about(self) -> dict[str, int | bool | str]:
        """What runs record of their data: how many samples each split has, and where validation came from."""
        counts = {"train": len(self.train), "val": len(self.val), "test": 0 if self.test is None else len(self.test)}
        return {**counts, "val_from_train": self.val_from_train, "metric": self.val.metric, **self.options}


def label_rows(labels: Labels | None, index: np.ndarray) -> Labels | None:
    """The rows at `index` of labels that `Split.targets` returned."""
    return map_labels(labels, lambda values: values[index])


def map_labels(labels: LazyLabels | None, function: Callable[[Any], np.ndarray]) -> Labels | None:
    """What a function makes of an array of labels, or of each output's; None stays None."""
    if isinstance(labels, Mapping):
        return {name: function(values) for name, values in labels.items()}
    return None if labels is None else function(labels)


def _label_arrays(labels: LazyLabels | None) -> list[LazyArray]:
    if isinstance(labels, Mapping):
        return list(labels.values())
    return [] if labels is None else [labels]


def split_validation(split: Split) -> tuple[Split, Split]:
    """Training and validation samples: a seeded 10% of `split` are for validation, the same share of every class.

    Raises:
        NetadaptError: There is one sample only.
    """
    if len(split) < 2:
        raise invalid_data(f"x_train holds {len(split)} samples, too few to take validation samples from")
    rng = np.random.default_rng(VALIDATION_SEED)
    order = rng.permutation(len(split))
    count = max(1, round(VALIDATION_SHARE * len(split)))
    chosen = order[:count]
    classes = _classes(split)
    if classes is not None:
        # Every class's samples spread evenly over [0, 1): the first tenth holds a tenth of each.
        position = np.empty(len(split))
        for label in np.unique(classes):
            members = order[classes[order] == label]
            position[members] = (np.arange(len(members)) + rng.random()) / len(members)
        chosen = np.argsort(position, kind="stable")[:count]
    return split.subset(np.setdiff1d(order, chosen)), split.subset(np.sort(chosen))


def _classes(split: Split) -> np.ndarray | None:
    """One class number per sample, of the first output that is labelled so."""
    classes = next((a for a in _label_arrays(split.labels) if len(a.shape) == 1 and a.dtype.kind != "f"), None)
    return None if classes is None else np.asarray(classes[slice(None) if split.rows is None else split.rows])


def _read(values: LazyArray, rows: np.ndarray | slice) -> np.ndarray:
    """Some rows in memory: a piece of a mapped file would be read again, and torch wants arrays that it may write."""
    read = values[rows]
    return np.array(read) if isinstance(values, np.memmap) else np.asarray(read)


def _read_labels(values: LazyArray, rows: np.ndarray | slice) -> np.ndarray:
    read = values[rows]
    return np.array(read, np.float32 if read.dtype.kind == "f" else np.int64)
