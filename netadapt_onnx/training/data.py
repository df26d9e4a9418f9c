"""Data in the `--data` layout: read, checked against the model, and handed out in batches. Imports no torch."""

from __future__ import annotations

import hashlib
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from netadapt_onnx.errors import NetadaptError, did_you_mean
from netadapt_onnx.runtime import Arrays, one_line

Specs = Mapping[str, tuple[tuple[int, ...], np.dtype[Any]]]

SPLITS = ("train", "val", "test")
VALIDATION_SHARE = 0.1
VALIDATION_SEED = 0
_CHECKED_ROWS = 4096


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
class Split:
    """Samples of one split, as stored; `batch` hands them out as the model wants them.

    `rows` selects samples without copying them. `labels` (over all stored samples, int64) is None without labels.
    """

    inputs: Mapping[str, np.ndarray]
    labels: np.ndarray | None = None
    scaling: Mapping[str, Scaling] = field(default_factory=dict)
    rows: np.ndarray | None = None

    def __len__(self) -> int:
        return len(next(iter(self.inputs.values()))) if self.rows is None else len(self.rows)

    def batch(self, index: np.ndarray | slice) -> Arrays:
        """Inputs of the samples at `index`, scaled. Shapes: (len(index), ...)."""
        rows = index if self.rows is None else self.rows[index]
        made = {}
        for name, values in self.inputs.items():
            scaling = self.scaling.get(name)
            made[name] = np.asarray(values[rows]) if scaling is None else scaling(values[rows])
        return made

    def targets(self, index: np.ndarray | slice = slice(None)) -> np.ndarray | None:
        """Labels of the samples at `index`. Shape: (len(index),)."""
        if self.labels is None:
            return None
        return self.labels[index if self.rows is None else self.rows[index]]

    def subset(self, index: np.ndarray | slice) -> Split:
        """The samples at `index`, as a split of their own that shares the storage."""
        rows = np.arange(len(self)) if self.rows is None else self.rows
        return replace(self, rows=rows[index])

    def compact(self) -> Split:
        """The same samples in storage of their own, so that as bytes they are no more than that."""
        if self.rows is None:
            return self
        labels = None if self.labels is None else self.labels[self.rows]
        return replace(self, inputs={n: v[self.rows] for n, v in self.inputs.items()}, labels=labels, rows=None)

    def sample(self, count: int, seed: int = 0) -> Split:
        """A seeded subset of at most `count` samples, in storage order."""
        if count >= len(self):
            return self
        return self.subset(np.sort(np.random.default_rng(seed).permutation(len(self))[:count]))

    def batches(self, size: int) -> Iterator[tuple[Arrays, np.ndarray | None]]:
        """All samples in order, in batches of at most `size`, with their labels."""
        for start in range(0, len(self), size):
            index = slice(start, start + size)
            yield self.batch(index), self.targets(index)


@dataclass(frozen=True)
class Dataset:
    """The splits of one data file. `test` is None where the file has none.

    `val_from_train` says that the validation samples were taken out of the training data (stratified, seed 0).
    """

    train: Split
    val: Split
    test: Split | None = None
    path: str = ""
    sha256: str = ""
    val_from_train: bool = False

    @property
    def reported(self) -> tuple[str, Split]:
        """The split whose accuracy is reported, with its name: `test` if there is one, else `val`."""
        return ("val", self.val) if self.test is None else ("test", self.test)


def load_data(path: str | Path, specs: Specs, outputs: Mapping[str, tuple[int, ...]], *, train: bool = True) -> Dataset:
    """Read an `.npz` of x_train, y_train, x_val, y_val, x_test, y_test, mean, std and check it against the model.

    `specs` are the model's inputs, `outputs` the shapes of its outputs at the same batch size. With `train=False` the
    file may lack x_train. Raises NetadaptError naming both sides of what does not fit.
    """
    file = Path(path)
    if not file.exists():
        raise NetadaptError(f"--data {file}: no such file", code="missing-file")
    if file.is_dir() or file.suffix != ".npz":
        raise _invalid(f"--data {file}: not an .npz file", "save x_train, ... with numpy.savez")
    stored = _read(file)
    _refuse_unknown(stored, specs, file)
    if train and not _has(stored, "train"):
        found = ", ".join(stored) or "nothing"
        raise _invalid(f"--data {file}: no x_train; it holds {found}", "name the arrays x_train, y_train, ...")
    splits = {name: _split(stored, name, specs, outputs, file) for name in SPLITS}
    absent = Split({name: np.zeros((0, *shape[1:]), dtype) for name, (shape, dtype) in specs.items()})
    training, validation, test = splits["train"] or absent, splits["val"], splits["test"]
    taken = validation is None and splits["train"] is not None
    if taken:
        training, validation = split_validation(training)
    labelled = {name: s.labels is not None for name, s in splits.items() if s is not None}
    if len(set(labelled.values())) > 1:
        missing = ", ".join(f"y_{name}" for name, has in labelled.items() if not has)
        raise _invalid(f"--data {file}: labels for some splits only", f"add {missing}, or drop the others")
    return Dataset(training, validation or absent, test, str(file), _sha256(file), taken)


def split_validation(split: Split) -> tuple[Split, Split]:
    """Training and validation samples: a seeded 10% of `split`, the same share of every class."""
    if len(split) < 2:
        raise _invalid(f"x_train holds {len(split)} samples, too few to take validation samples from")
    rng = np.random.default_rng(VALIDATION_SEED)
    order = rng.permutation(len(split))
    labels = split.targets()
    if labels is None:
        chosen = order[: max(1, round(VALIDATION_SHARE * len(split)))]
    else:
        # Every class's samples spread evenly over [0, 1): the first tenth holds a tenth of each.
        position = np.empty(len(split))
        for label in np.unique(labels):
            members = order[labels[order] == label]
            position[members] = (np.arange(len(members)) + rng.random()) / len(members)
        chosen = np.argsort(position, kind="stable")[: max(1, round(VALIDATION_SHARE * len(split)))]
    held = np.zeros(len(split), dtype=bool)
    held[chosen] = True
    return split.subset(np.flatnonzero(~held)), split.subset(np.flatnonzero(held))


def class_output(outputs: Mapping[str, tuple[int, ...]]) -> tuple[str, int] | None:
    """The one output that holds a score per class, and its classes: (N, C) or (N, C, 1, ...); None if there is none."""
    found = [
        (name, shape[1])
        for name, shape in outputs.items()
        if len(shape) >= 2 and shape[1] > 1 and all(size == 1 for size in shape[2:])
    ]
    return found[0] if len(found) == 1 else None


def _read(file: Path) -> Arrays:
    try:
        with file.open("rb") as stream:  # numpy leaves the file open when the archive is broken
            archive = np.load(stream, allow_pickle=False)
            if not isinstance(archive, np.lib.npyio.NpzFile):
                raise _invalid(f"--data {file}: not an .npz file")
            return {name: archive[name] for name in archive.files}
    except (OSError, ValueError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise _invalid(f"--data {file} cannot be read: {one_line(error)}") from error


def _refuse_unknown(stored: Arrays, specs: Specs, file: Path) -> None:
    """A misspelt `y_train` would change the task, and a misspelt `x_val` the validation samples, without a word."""
    known = [f"{axis}_{split}" for split in SPLITS for axis in "xy"] + ["mean", "std"]
    known += [f"{what}.{name}" for name in specs for what in (*(f"x_{split}" for split in SPLITS), "mean", "std")]
    for name in stored:
        if name not in known:
            hint = did_you_mean(name, known, "")
            everything = f"known are {', '.join(known)}"
            raise _invalid(f"--data {file}: unknown array '{name}'", hint or f"leave it out: {everything}")


def _has(stored: Arrays, split: str) -> bool:
    return any(name == f"x_{split}" or name.startswith(f"x_{split}.") for name in stored)


def _split(
    stored: Arrays, split: str, specs: Specs, outputs: Mapping[str, tuple[int, ...]], file: Path
) -> Split | None:
    """One split, checked; None if the file does not have it."""
    if not _has(stored, split):
        if f"y_{split}" in stored:
            raise _invalid(f"--data {file}: y_{split} without x_{split}")
        return None
    inputs, scaling = {}, {}
    for name, (shape, dtype) in specs.items():
        key = f"x_{split}.{name}"
        if key not in stored and len(specs) == 1:
            key = f"x_{split}"
        if key not in stored:
            raise _invalid(f"--data {file}: no '{key}' for the model's input '{name}'")
        inputs[name] = stored[key]
        factor = _check_input(key, stored, name, shape, dtype)
        if factor is not None:
            scaling[name] = factor
    lengths = {len(values) for values in inputs.values()}
    if len(lengths) > 1:
        raise _invalid(f"--data {file}: inputs of x_{split} differ in length: {sorted(lengths)}")
    labels = stored.get(f"y_{split}")
    if labels is not None:
        labels = _check_labels(f"y_{split}", labels, next(iter(lengths)), outputs)
    return Split(inputs, labels, scaling)


def _check_input(key: str, stored: Arrays, name: str, shape: tuple[int, ...], dtype: np.dtype[Any]) -> Scaling | None:
    values = stored[key]
    if not shape or values.ndim != len(shape) or values.shape[1:] != shape[1:]:
        raise _invalid(
            f"{key} has shape {_shape(values.shape)}, but the model's input '{name}' takes Nx{_shape(shape[1:])}",
        )
    if not len(values):
        raise _invalid(f"{key} holds no samples")
    if values.dtype == np.uint8 and np.issubdtype(dtype, np.floating):
        return _scaling(key, stored, name, shape, dtype)
    if values.dtype != dtype:
        hint = f"save it as .astype('{dtype}')"
        if np.issubdtype(dtype, np.floating):
            hint += ", or as uint8 with mean and std"
        raise _invalid(
            f"{key} has type {values.dtype}, but the model's input '{name}' takes {dtype}",
            hint,
        )
    if values.dtype.kind == "f":
        for start in range(0, len(values), _CHECKED_ROWS):
            finite = np.isfinite(values[start : start + _CHECKED_ROWS])
            if not finite.all():
                row = start + int(np.argwhere(~finite)[0][0])
                raise _invalid(f"{key} holds NaN or infinity (sample {row})")
    return None


def _scaling(key: str, stored: Arrays, name: str, shape: tuple[int, ...], dtype: np.dtype[Any]) -> Scaling:
    """Mean and std per channel, brought to the channel axis: the first of a sample (NCHW), else the last (NHWC)."""
    made = []
    for what in ("mean", "std"):
        values = stored.get(f"{what}.{name}", stored.get(what))
        if values is None:
            raise _invalid(
                f"{key} has type uint8, but the model's input '{name}' takes floats",
                "add mean and std per channel to the file, for (x / 255 - mean) / std",
            )
        if values.dtype.kind not in "iuf":
            raise _invalid(f"{what} has type {values.dtype}: it must hold numbers")
        flat = np.asarray(values, np.float32).reshape(-1)
        if not np.isfinite(flat).all() or (what == "std" and (flat <= 0).any()):
            raise _invalid(f"{what} holds {flat.tolist()}: it must be finite, and std positive")
        sample = shape[1:]
        if flat.size == 1:
            made.append(flat.reshape((1,) * len(sample)))
        elif sample and flat.size == sample[0]:
            made.append(flat.reshape(-1, *(1 for _ in sample[1:])))
        elif sample and flat.size == sample[-1]:
            made.append(flat.reshape(*(1 for _ in sample[1:]), -1))
        else:
            raise _invalid(
                f"{what} has {flat.size} values, but the model's input '{name}' takes Nx{_shape(sample)}",
            )
    return Scaling(made[0], made[1], dtype)


def _check_labels(key: str, labels: np.ndarray, count: int, outputs: Mapping[str, tuple[int, ...]]) -> np.ndarray:
    """Class numbers as int64. Shape: (count,)."""
    found = class_output(outputs)
    if found is None:
        shapes = ", ".join(f"'{name}' {_shape(shape)}" for name, shape in outputs.items())
        raise _invalid(
            f"{key} cannot be compared with the model's outputs {shapes}: labels need one output of shape Nxclasses",
            "drop the labels: the original model is then the teacher",
        )
    flat = labels.reshape(-1) if labels.ndim == 2 and labels.shape[1] == 1 else labels
    name, classes = found
    if flat.shape != (count,):
        raise _invalid(
            f"{key} has shape {_shape(labels.shape)}, but x_{key[2:]} holds {count} samples: "
            f"one class number each is expected for the model's output '{name}' (Nx{classes})",
        )
    if flat.dtype.kind not in "iu":
        raise _invalid(f"{key} has type {flat.dtype}: class numbers are integers")
    low, high = int(flat.min()), int(flat.max())
    if low < 0 or high >= classes:
        raise _invalid(
            f"{key} holds labels from {low} to {high}, but the model's output '{name}' has {classes} classes",
        )
    return flat.astype(np.int64)


def _invalid(message: str, hint: str = "") -> NetadaptError:
    return NetadaptError(message, hint=hint)


def _shape(shape: tuple[int, ...]) -> str:
    return "x".join(map(str, shape)) or "()"


def _sha256(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
