"""The user's own loaders, loss, metric and training function: what `FILE.py:FUNCTION` returns."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from threading import local
from typing import Any

import numpy as np

from netadapt_onnx.common.user_code import called, code_file
from netadapt_onnx.data.dataset import SPLITS, Measure, Own, Specs, Split, Stored
from netadapt_onnx.data.labels import Outputs, checked, shown
from netadapt_onnx.data.source import DataSource
from netadapt_onnx.errors import NetadaptError, one_line
from netadapt_onnx.graph.runtime import Arrays

KEYS = (*SPLITS, "loss", "metric", "training")
EXPECTED = (
    "return (train, val) or (train, val, test) loaders, or a dict of them by name with, if you want, loss, metric and "
    "training"
)
BATCH = "a batch is (inputs, labels) or inputs: a tensor, a tuple in the model's order, or a dict by name"

Batch = tuple[Arrays, Arrays]


def user_splits(source: DataSource, specs: Specs, outputs: Outputs) -> tuple[dict[str, Split | None], Own, str]:
    """The splits, what else the user's function brings, and what identifies it: its file and the splits' lengths.

    Raises NetadaptError if it fails or returns something else than is expected, and for batches that do not fit.
    """
    name = source.path
    try:
        import torch  # noqa: F401
    except ModuleNotFoundError as error:
        raise NetadaptError(
            f"--data {name} needs torch", hint="pip install 'netadapt-onnx[adapt]'", code="missing-package"
        ) from error
    digest = hashlib.sha256(code_file(name).read_bytes())
    parts = _parts(name, called(name))
    for key in ("loss", "training"):
        if parts.get(key) is not None and not callable(parts[key]):
            raise _wrong(f"{name}: '{key}' is {type(parts[key]).__name__}", "give a function")
    measure = _measure(name, parts.get("metric"))
    raw = measure is not None and any(parts.get(key) is not None for key in ("loss", "training"))
    splits: dict[str, Split | None] = {}
    for split in SPLITS:
        loader = parts.get(split)
        if loader is not None:
            reader = _Reader(f"{name}, {split}", loader, specs, outputs, source, raw=raw)
            splits[split] = reader.split(measure, varies=split == "train")
            digest.update(f"{split} {len(reader)} ".encode())
    return splits, Own(name, parts.get("loss"), parts.get("training")), digest.hexdigest()


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


def _measure(name: str, metric: Any) -> Measure | None:
    """A function as it is; a torchmetrics metric is updated with outputs and labels as tensors."""
    if metric is None:
        return None
    if hasattr(metric, "update") and hasattr(metric, "compute"):
        return Measure(type(metric).__name__, _Torchmetric(metric))
    if not callable(metric):
        raise _wrong(f"{name}: 'metric' is {type(metric).__name__}", "give a function or a torchmetrics.Metric")
    return Measure(getattr(metric, "__name__", "metric"), metric)


class _Torchmetric:
    """Calls a torchmetrics.Metric with the model's only output, and the labels."""

    def __init__(self, metric: Any) -> None:
        self._metric = metric

    def __call__(self, outputs: Arrays, labels: Any) -> float:
        import torch

        if len(outputs) != 1 or isinstance(labels, Mapping):
            raise _wrong("a torchmetrics metric takes one output and its labels", "give a function instead")
        self._metric.reset()
        (found,) = outputs.values()
        self._metric.update(torch.from_numpy(found), torch.from_numpy(labels))
        return float(self._metric.compute())


class _Reader:
    """Samples of one loader by row: from its dataset where that can be asked, else read once and kept.

    Labels that only functions of the user's look at are left as they are (`raw`), others checked against the outputs.
    """

    def __init__(
        self, name: str, loader: Any, specs: Specs, outputs: Outputs, source: DataSource, *, raw: bool
    ) -> None:
        self._name = name
        self._specs = specs
        self._outputs = outputs
        self._task = None if source.task == "distillation" else source.task
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

    def split(self, measure: Measure | None, *, varies: bool) -> Split:
        """All samples, as a split."""
        inputs, labels = self.read(np.arange(1))
        columns: dict[str, Stored] = {name: _Column(self, 0, name, values) for name, values in inputs.items()}
        wanted: dict[str, Stored] = {name: _Column(self, 1, name, values) for name, values in labels.items()}
        found = wanted.get("", wanted) if wanted else None
        return Split(columns, found, {}, None, measure, varies and self._collate is not None)

    def read(self, rows: Any) -> Batch:
        """Inputs and labels of some rows. A thread's last answer is kept: labels are asked for after their inputs."""
        index = np.arange(self._count)[rows]
        key = index.tobytes()
        if getattr(self._last, "key", None) != key:
            self._last.found = self._read(index)
            self._last.key = key
        found: Batch = self._last.found
        return found

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
        given, wanted = batch, None
        if isinstance(batch, tuple | list):
            if not 1 <= len(batch) <= 2:
                raise _wrong(f"{self._name}: a batch of {len(batch)} parts", BATCH)
            given, wanted = (batch[0], None) if len(batch) == 1 else batch
        inputs = _named(given, tuple(self._specs), f"{self._name}: inputs")
        for name, (shape, dtype) in self._specs.items():
            values = inputs[name]
            if values.shape[1:] != shape[1:] or values.dtype != dtype:
                raise _wrong(
                    f"{self._name}: input '{name}' is {values.dtype} of shape {shown(values.shape)}, but the model "
                    f"takes {dtype} Nx{shown(shape[1:])}"
                )
            if values.dtype.kind == "f" and not np.isfinite(values).all():
                raise _wrong(f"{self._name}: input '{name}' holds NaN or infinity")
        return inputs, {} if wanted is None else self._labels(wanted, len(next(iter(inputs.values()))))

    def _labels(self, wanted: Any, count: int) -> Arrays:
        if isinstance(wanted, Mapping):
            named = _named(wanted, tuple(wanted), f"{self._name}: labels")
        elif isinstance(wanted, tuple | list):
            named = _named(wanted, tuple(self._outputs), f"{self._name}: labels")
        else:
            named = _named(wanted, ("",), f"{self._name}: labels")
        if self._raw:
            return named
        if not self._outputs:  # of a model whose outputs nobody looks at
            return {}
        made = {}
        for name, values in named.items():
            if name and name not in self._outputs:
                raise _wrong(f"{self._name}: labels '{name}'", f"the model's outputs are {', '.join(self._outputs)}")
            fitting = {name: self._outputs[name]} if name else self._outputs
            found, fit = checked(f"{self._name}: labels", values, count, fitting, self._task)
            made[found if name or len(self._outputs) > 1 else ""] = fit
        return made


class _Column:
    """One input or one output's labels of a reader, as an array of which rows can be asked for."""

    def __init__(self, reader: _Reader, part: int, name: str, example: np.ndarray) -> None:
        self._reader = reader
        self._part = part
        self._name = name
        self.dtype: np.dtype[Any] = example.dtype
        self._sample = example.shape[1:]

    @property
    def shape(self) -> tuple[int, ...]:
        """(N, *sample)."""
        return (len(self._reader), *self._sample)

    def __len__(self) -> int:
        return len(self._reader)

    def __getitem__(self, rows: Any) -> np.ndarray:
        return self._reader.read(rows)[self._part][self._name]


def _by_row(loader: Any) -> bool:
    """Whether a loader's dataset may be asked for rows in its place: it must not choose among them itself."""
    from torch.utils.data import DataLoader, RandomSampler, SequentialSampler

    return (
        isinstance(loader, DataLoader)
        and hasattr(loader.dataset, "__getitem__")
        and hasattr(loader.dataset, "__len__")
        and loader.batch_size is not None
        and type(loader.sampler) in (SequentialSampler, RandomSampler)
    )


def _named(given: Any, names: Sequence[str], what: str) -> Arrays:
    """Arrays by name, from a tensor, a sequence in the order of `names`, or a mapping."""
    if isinstance(given, Mapping):
        missing = [name for name in names if name not in given]
        if missing or len(given) != len(names):
            raise _wrong(f"{what} are {', '.join(map(str, given))}; the model has {', '.join(names)}", BATCH)
        parts = [given[name] for name in names]
    else:
        parts = list(given) if isinstance(given, tuple | list) else [given]
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
