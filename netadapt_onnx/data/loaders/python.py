"""The user's own loaders, loss, metric and training function: what `FILE.py:FUNCTION` returns. Imports torch."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from threading import local
from typing import Any

import numpy as np

from netadapt_onnx.common.user_code import called, code_file
from netadapt_onnx.data.dataset import SPLITS, Split, UserFunctions, UserMetric
from netadapt_onnx.data.labels import check_labels
from netadapt_onnx.data.shapes import Outputs, format_shape, layout_hint
from netadapt_onnx.data.source import DataSource
from netadapt_onnx.errors import NetadaptError, one_line, require_package
from netadapt_onnx.graph.runtime import Arrays
from netadapt_onnx.graph.shapes import Specs

KEYS = (*SPLITS, "loss", "metric", "training")
EXPECTED = (
    "return (train, val) or (train, val, test) loaders, or a dict of them by name with, if you want, loss, metric and "
    "training"
)
BATCH = "a batch is (inputs, labels) or inputs: a tensor, a tuple in the model's order, or a dict by name"

Batch = tuple[Arrays, Arrays]


def user_splits(
    source: DataSource, specs: Specs, outputs: Outputs
) -> tuple[dict[str, Split | None], UserFunctions, str]:
    """Call the user's function and read its loaders.

    Args:
        source: "FILE.py:FUNCTION", and the task.
        specs: Shape and type of the model's inputs by name.
        outputs: Shapes of its outputs by name, samples first.

    Returns:
        The splits by name, the user's other functions, and a hash of the file and the splits' lengths.

    Raises:
        NetadaptError: The function fails, returns something else than is expected, or batches do not fit the model.
    """
    name = source.path
    require_package("torch", f"--data {name} needs torch")
    digest = hashlib.sha256(code_file(name).read_bytes())
    parts = _parts(name, called(name))
    for key in ("loss", "training"):
        if parts.get(key) is not None and not callable(parts[key]):
            raise _wrong(f"{name}: '{key}' is {type(parts[key]).__name__}", "give a function")
    user_metric = _user_metric(name, parts.get("metric"))
    raw = user_metric is not None and any(parts.get(key) is not None for key in ("loss", "training"))
    splits: dict[str, Split | None] = {}
    for split in SPLITS:
        loader = parts.get(split)
        if loader is not None:
            reader = _Reader(f"{name}, {split}", loader, specs, outputs, source, raw=raw)
            splits[split] = reader.split(user_metric, varies=split == "train")
            digest.update(f"{split} {len(reader)} ".encode())
    return splits, UserFunctions(name, parts.get("loss"), parts.get("training")), digest.hexdigest()


def _parts(name: str, returned: Any) -> dict[str, Any]:
    if isinstance(returned, Mapping):
        parts = dict(returned)
        unknown = next((key for key in parts if key not in KEYS), None)
        if unknown is not None:
            raise _wrong(f"{name} returned a dict with '{unknown}'", f"known are {', '.join(KEYS)}")
    elif isinstance(returned, tuple | list) and 2 <= len(returned) <= 3:
        parts = dict(zip(SPLITS, returned, strict=False))
    else:
        what = f"{type(returned).__name__} of {len(returned)}" if isinstance(returned, Sequence) else ""
        raise _wrong(f"{name} returned {what or type(returned).__name__}", EXPECTED)
    for split in SPLITS:
        if parts.get(split) is not None and not isinstance(parts[split], Iterable):
            raise _wrong(f"{name}: '{split}' is {type(parts[split]).__name__}, which is no loader", EXPECTED)
    if not any(parts.get(split) is not None for split in SPLITS):
        raise _wrong(f"{name} returned no loader", EXPECTED)
    return parts


def _user_metric(name: str, metric: Any) -> UserMetric | None:
    """A function as it is; a torchmetrics metric is updated with outputs and labels as tensors."""
    if metric is None:
        return None
    if hasattr(metric, "update") and hasattr(metric, "compute"):
        return UserMetric(type(metric).__name__, partial(_computed, metric))
    if not callable(metric):
        raise _wrong(f"{name}: 'metric' is {type(metric).__name__}", "give a function or a torchmetrics.Metric")
    return UserMetric(getattr(metric, "__name__", "metric"), metric)


def _computed(metric: Any, outputs: Arrays, labels: Any) -> float:
    """What a torchmetrics.Metric makes of the model's only output, and the labels."""
    import torch

    if len(outputs) != 1 or isinstance(labels, Mapping):
        raise _wrong("a torchmetrics metric takes one output and its labels", "give a function instead")
    metric.reset()
    (output,) = outputs.values()
    metric.update(torch.from_numpy(output), torch.from_numpy(labels))
    return float(metric.compute())


class _Reader:
    """Samples of one loader by row: from its dataset where that can be indexed, else read once and kept.

    Labels that only functions of the user's read stay as they are (`raw`), others are checked against the outputs.
    """

    def __init__(
        self, name: str, loader: Any, specs: Specs, outputs: Outputs, source: DataSource, *, raw: bool
    ) -> None:
        self._name = name
        self._specs = specs
        self._outputs = outputs
        self._task = source.label_task
        self._raw = raw
        self._last = local()
        self._collate = None
        if _by_row(loader):
            self._collate, self._rows = loader.collate_fn, loader.dataset
            self._count = len(self._rows)
        else:
            self._kept = self._all(loader)
            self._count = len(next(iter(self._kept[0].values())))
        if not self._count:
            raise _wrong(f"{name} holds no samples", EXPECTED)

    def __len__(self) -> int:
        return self._count

    def __getstate__(self) -> dict[str, Any]:
        return {key: value for key, value in self.__dict__.items() if key != "_last"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state, _last=local())

    def split(self, user_metric: UserMetric | None, *, varies: bool) -> Split:
        """All samples, as a split."""
        columns, by_output = (
            {name: _Column(self, part, name, (len(self), *one.shape[1:]), one.dtype) for name, one in sample.items()}
            for part, sample in enumerate(self.read(np.arange(1)))
        )
        lazy_labels = by_output.get("", by_output) if by_output else None
        return Split(columns, lazy_labels, {}, None, user_metric, varies and self._collate is not None)

    def read(self, rows: Any) -> Batch:
        """Inputs and labels of some rows. A thread's last batch is kept: labels are read after their inputs."""
        index = np.arange(self._count)[rows]
        key = index.tobytes()
        if getattr(self._last, "key", None) != key:
            self._last.batch = self._read(index)
            self._last.key = key
        batch: Batch = self._last.batch
        return batch

    def _read(self, index: np.ndarray) -> Batch:
        if self._collate is None:
            inputs, labels = self._kept
            return {n: v[index] for n, v in inputs.items()}, {n: v[index] for n, v in labels.items()}
        try:
            batch = self._collate([self._rows[int(row)] for row in index])
        except Exception as error:
            raise _wrong(
                f"{self._name} failed at sample {index[0]}: {type(error).__name__}: {one_line(error)}"
            ) from error
        return self._arrays(batch)

    def _all(self, loader: Iterable[Any]) -> Batch:
        try:
            batches = [self._arrays(batch) for batch in loader]
        except NetadaptError:
            raise
        except Exception as error:
            raise _wrong(f"{self._name} failed: {type(error).__name__}: {one_line(error)}") from error
        if not batches:
            raise _wrong(f"{self._name} holds no samples", EXPECTED)
        inputs, labels = ({n: np.concatenate([b[i][n] for b in batches]) for n in batches[0][i]} for i in (0, 1))
        return inputs, labels

    def _arrays(self, batch: Any) -> Batch:
        """A batch by names, checked. Labels of one output that needs no name are called ""."""
        samples, labels = batch, None
        if isinstance(batch, tuple | list):
            if not 1 <= len(batch) <= 2:
                raise _wrong(f"{self._name}: a batch of {len(batch)} parts", BATCH)
            samples, labels = (batch[0], None) if len(batch) == 1 else batch
        inputs = _by_name(samples, tuple(self._specs), f"{self._name}: inputs")
        for name, (shape, dtype) in self._specs.items():
            values = inputs[name]
            if values.shape[1:] != shape[1:] or values.dtype != dtype:
                raise _wrong(
                    f"{self._name}: input '{name}' is {values.dtype} of shape {format_shape(values.shape)}, but the "
                    f"model takes {dtype} Nx{format_shape(shape[1:])}",
                    layout_hint(name, values.shape, shape) if values.shape[1:] != shape[1:] else "",
                )
            if values.dtype.kind == "f" and not np.isfinite(values).all():
                raise _wrong(f"{self._name}: input '{name}' holds NaN or infinity")
        return inputs, {} if labels is None else self._labels(labels, len(next(iter(inputs.values()))))

    def _labels(self, labels: Any, count: int) -> Arrays:
        names: tuple[str, ...] = ("",)
        if isinstance(labels, Mapping):
            names = tuple(labels)
        elif isinstance(labels, tuple | list):
            names = tuple(self._outputs)
        by_name = _by_name(labels, names, f"{self._name}: labels")
        if self._raw:
            return by_name
        if not self._outputs:  # of a model whose inputs alone are of interest
            return {}
        checked = {}
        for name, values in by_name.items():
            if name and name not in self._outputs:
                raise _wrong(f"{self._name}: labels '{name}'", f"the model's outputs are {', '.join(self._outputs)}")
            fitting = {name: self._outputs[name]} if name else self._outputs
            output, fit = check_labels(f"{self._name}: labels", values, count, fitting, self._task)
            checked[output if name or len(self._outputs) > 1 else ""] = fit
        return checked


@dataclass(frozen=True)
class _Column:
    """One input or one output's labels of a reader, as an array (N, ...) that is read by rows."""

    reader: _Reader
    part: int
    name: str
    shape: tuple[int, ...]
    dtype: np.dtype[Any]

    def __len__(self) -> int:
        return len(self.reader)

    def __getitem__(self, rows: Any) -> np.ndarray:
        return self.reader.read(rows)[self.part][self.name]


def _by_row(loader: Any) -> bool:
    """Whether a loader's dataset can be indexed in its place: the loader must not choose among its samples."""
    from torch.utils.data import DataLoader, RandomSampler, SequentialSampler

    return (
        isinstance(loader, DataLoader)
        and hasattr(loader.dataset, "__getitem__")
        and hasattr(loader.dataset, "__len__")
        and loader.batch_size is not None
        and type(loader.sampler) in (SequentialSampler, RandomSampler)
    )


def _by_name(values: Any, names: Sequence[str], what: str) -> Arrays:
    """Arrays by name, from a tensor, a sequence in the order of `names`, or a mapping."""
    if isinstance(values, Mapping):
        missing = [name for name in names if name not in values]
        if missing or len(values) != len(names):
            raise _wrong(f"{what} are {', '.join(map(str, values))}; the model has {', '.join(names)}", BATCH)
        parts = [values[name] for name in names]
    else:
        parts = list(values) if isinstance(values, tuple | list) else [values]
        if len(parts) != len(names):
            raise _wrong(f"{what} are {len(parts)} of {len(names)}: {', '.join(names)}", BATCH)
    return {name: _array(part, what) for name, part in zip(names, parts, strict=True)}


def _array(value: Any, what: str) -> np.ndarray:
    import torch

    if isinstance(value, torch.Tensor):
        return np.asarray(value.detach().cpu().numpy())
    if isinstance(value, np.ndarray):
        return value
    raise _wrong(f"{what} hold {type(value).__name__}", BATCH)


def _wrong(message: str, hint: str = "") -> NetadaptError:
    return NetadaptError(message, hint=hint, code="factory")
