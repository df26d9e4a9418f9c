"""Accuracy of an ONNX model on a split, in onnxruntime. Imports no torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
import onnx

from netadapt_onnx.errors import NetadaptError
from netadapt_onnx.model import declared_shape
from netadapt_onnx.runtime import Arrays, run, session
from netadapt_onnx.training.data import Split, class_output

BATCH_SIZE = 64
_NO_CLASS = -1


@dataclass(frozen=True)
class Accuracy:
    """A fraction in [0, 1]: `top1` against labels, or `agreement` with a reference model where there are none.

    Samples whose outputs are NaN or infinite count as wrong.
    """

    value: float
    metric: Literal["top1", "agreement"]
    samples: int


def accuracy(
    proto: onnx.ModelProto, split: Split, *, reference: Mapping[str, np.ndarray] | None = None, threads: int = 1
) -> Accuracy:
    """Accuracy on `split`. Without labels `reference` is needed: what `outputs` returned for the original model.

    Raises NetadaptError: an empty split, or neither labels nor reference.
    """
    if not len(split):
        raise NetadaptError("the data hold no samples for this split", code="invalid-data")
    labels = split.targets()
    if labels is None and reference is None:
        raise NetadaptError("without labels, accuracy needs the original model's outputs", code="invalid-data")
    found = outputs(proto, split, threads=threads)
    if labels is None:
        return Accuracy(agreement(found, reference or {}), "agreement", len(split))
    scores = class_output({name: value.shape for name, value in found.items()})
    if scores is None:
        raise NetadaptError("labels need one model output of shape Nxclasses", code="invalid-data")
    predicted = _classes(found[scores[0]])
    return Accuracy(float(np.mean(predicted == labels)), "top1", len(split))


def outputs(proto: onnx.ModelProto, split: Split, *, threads: int = 1) -> Arrays:
    """All outputs of the model on `split`, by name. Shapes: (len(split), ...).

    A model with a fixed batch is fed batches of that size, the last one filled up.
    """
    active = session(proto, threads=threads)
    size = batch_size(proto)
    parts: dict[str, list[np.ndarray]] = {output.name: [] for output in active.get_outputs()}
    for start in range(0, len(split), size):
        wanted = np.arange(start, start + size)
        count = int((wanted < len(split)).sum())
        fixed = size if _fixed(proto) else count
        inputs = split.batch(np.minimum(wanted[:fixed], len(split) - 1))
        for name, value in run(active, inputs).items():
            parts[name].append(_per_sample(name, value, fixed)[:count])
    return {name: np.concatenate(chunks) for name, chunks in parts.items()}


def agreement(found: Mapping[str, np.ndarray], reference: Mapping[str, np.ndarray]) -> float:
    """How far two models' outputs agree, the mean over outputs, in [0, 1].

    For an output of shape (N, classes) the share of equal top classes; for any other the share of the reference's
    variance that is explained. A sample that is not finite in either model explains nothing.
    """
    if found.keys() != reference.keys():
        raise NetadaptError(f"outputs {sorted(found)} cannot be compared with {sorted(reference)}")
    shares = []
    for name, wanted in reference.items():
        value = found[name]
        if value.shape != wanted.shape:
            raise NetadaptError(f"output '{name}' of shape {value.shape} cannot be compared with {wanted.shape}")
        if class_output({name: wanted.shape}) is not None:
            classes = _classes(value)
            shares.append(float(np.mean((classes == _classes(wanted)) & (classes != _NO_CLASS))))
        else:
            shares.append(_explained(value.astype(np.float64), wanted.astype(np.float64)))
    return float(np.mean(shares))


def batch_size(proto: onnx.ModelProto) -> int:
    """The batch that one run takes: the file's own where it is fixed, else a size that caches well."""
    return _fixed(proto) or BATCH_SIZE


def _fixed(proto: onnx.ModelProto) -> int | None:
    sizes = {(declared_shape(value) or (None,))[0] for value in proto.graph.input}
    fixed = sizes - {None}
    return next(iter(fixed)) if fixed else None


def _per_sample(name: str, value: np.ndarray, count: int) -> np.ndarray:
    """Give the first axis back to the batch where a model merged it with another (boxes of all images in one list)."""
    if value.ndim and value.shape[0] == count:
        return value
    if value.ndim and value.shape[0] % count == 0:
        return value.reshape(count, value.shape[0] // count, *value.shape[1:])
    raise NetadaptError(f"output '{name}' of shape {value.shape} does not hold {count} samples", code="unsupported")


def _classes(scores: np.ndarray) -> np.ndarray:
    """The top class per sample; _NO_CLASS where its score is not a number (argmax alone would pick the first NaN).

    A class at minus infinity is merely ruled out, as the logarithm of a softmax that underflowed.
    """
    flat = scores.reshape(len(scores), -1)
    return np.where(np.isfinite(flat.max(1)), flat.argmax(1), _NO_CLASS)


def _explained(value: np.ndarray, wanted: np.ndarray) -> float:
    """The share of the variance of `wanted` that `value` explains, in [0, 1]."""
    comparable, finite = _finite(wanted), _finite(value)
    if not comparable.any():
        return 0.0
    mean = wanted[comparable].mean()
    both = comparable & finite
    spread = float(np.sum((wanted[comparable] - mean) ** 2))
    # What is not finite is as good as no answer: the mean.
    error = float(np.sum((value[both] - wanted[both]) ** 2) + np.sum((wanted[comparable & ~finite] - mean) ** 2))
    share = max(0.0, 1 - error / spread) if spread > 0 else float(np.array_equal(value[both], wanted[comparable]))
    return share * float(comparable.mean())


def _finite(values: np.ndarray) -> np.ndarray:
    """Which samples hold nothing but finite numbers. Shape: (len(values),)."""
    found: np.ndarray = np.isfinite(values).all(axis=tuple(range(1, values.ndim)))
    return found
