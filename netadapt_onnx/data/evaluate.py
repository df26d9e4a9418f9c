"""Accuracy of an ONNX model on a split, in onnxruntime. Imports no torch."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import onnx

from netadapt_onnx.common.progress import steps
from netadapt_onnx.data.batch_layout import Layout
from netadapt_onnx.data.dataset import Labels, Measure, Split
from netadapt_onnx.data.labels import class_output, kind_of, match_labels_to_output
from netadapt_onnx.data.metrics import METERS, NO_CLASS, Meter, top_class
from netadapt_onnx.data.output_forms import forms
from netadapt_onnx.errors import NetadaptError
from netadapt_onnx.graph.inputs import declared_shape
from netadapt_onnx.graph.runtime import Arrays, run, session

BATCH_SIZE = 64
# What a model computes of batches, by whoever runs it elsewhere.
Compute = Callable[[onnx.ModelProto, Iterable[Arrays]], Iterable[Arrays]]


@dataclass(frozen=True)
class Accuracy:
    """How good a model is; higher is better, 1 is perfect.

    `metric`: `top1`, `r2` or `miou` against labels, the user's own, or without labels `agreement` with a reference
    model, a fraction in [0, 1]. Outputs that are NaN or infinite count as wrong.
    """

    value: float
    metric: str
    samples: int


def accuracy(
    proto: onnx.ModelProto,
    split: Split,
    *,
    reference: Mapping[str, np.ndarray] | None = None,
    threads: int = 1,
    compute: Compute | None = None,
) -> Accuracy:
    """Accuracy on `split`. Without labels `reference` is needed: what `outputs` returned for the original model.

    `compute`: who runs the model; None: onnxruntime here.

    Raises NetadaptError: an empty split, neither labels nor reference, or a metric of the user's that fails.
    """
    if not len(split):
        raise NetadaptError("the data hold no samples for this split", code="invalid-data")
    if split.measure is not None:
        found = outputs(proto, split, threads=threads, compute=compute)
        if split.layout is not None:  # the user's functions see outputs as the model gives them
            found = {name: split.layout.outputs[name].as_put_out(value) for name, value in found.items()}
        value = _measured(split.measure, found, split.targets())
    elif split.labels is not None:
        value = _against_labels(proto, split, threads, compute)
    elif reference is None:
        raise NetadaptError("without labels, accuracy needs the original model's outputs", code="invalid-data")
    else:
        found = outputs(proto, split, threads=threads, compute=compute)
        axes = {
            name: form.axis
            for name, form in forms(proto, _shapes(found), split.layout).items()
            if form.form != "values"
        }
        value = agreement(found, reference, axes)
    return Accuracy(value, split.metric, len(split))


def outputs(proto: onnx.ModelProto, split: Split, *, threads: int = 1, compute: Compute | None = None) -> Arrays:
    """All outputs of the model on `split` that have samples, by name. Shapes: (len(split), ...).

    A model with a fixed batch is fed batches of that size, the last one filled up.
    """
    parts = [found for _, found in _answers(proto, split, threads, compute)]
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def agreement(
    found: Mapping[str, np.ndarray], reference: Mapping[str, np.ndarray], axes: Mapping[str, int] | None = None
) -> float:
    """How far two models' outputs agree, the mean over outputs, in [0, 1].

    Where an output holds scores, (N, classes) or along `axes[name]`, the share of equal top classes; of integers the
    share that are equal; of any other output the share of the reference's variance that is explained. A sample that is
    not finite in either model explains nothing.
    """
    if found.keys() != reference.keys():
        raise NetadaptError(f"outputs {sorted(found)} cannot be compared with {sorted(reference)}")
    shares = []
    for name, wanted in reference.items():
        value = found[name]
        if value.shape != wanted.shape:
            raise NetadaptError(f"output '{name}' of shape {value.shape} cannot be compared with {wanted.shape}")
        axis = (axes or {}).get(name)
        if class_output({name: wanted.shape}) is not None:
            value, wanted, axis = value.reshape(len(value), -1), wanted.reshape(len(wanted), -1), 1
        if axis is not None:
            classes = top_class(value, axis)
            shares.append(float(np.mean((classes == top_class(wanted, axis)) & (classes != NO_CLASS))))
        elif wanted.dtype.kind in "iub":
            shares.append(float(np.mean(value == wanted)))
        else:
            shares.append(_explained(value.astype(np.float64), wanted.astype(np.float64)))
    return float(np.mean(shares))


def batch_size(proto: onnx.ModelProto, layout: Layout | None = None) -> int:
    """The batch that one run takes: the only one at which the model runs, else a size that caches well."""
    return fixed_batch(proto, layout) or BATCH_SIZE


def fixed_batch(proto: onnx.ModelProto, layout: Layout | None = None) -> int | None:
    """The only batch size at which onnxruntime runs a model; a file may declare it, or just depend on it."""
    return _declared_batch(proto) or (None if layout is None else layout.batch)


def _against_labels(proto: onnx.ModelProto, split: Split, threads: int, compute: Compute | None) -> float:
    """The mean over labelled outputs; batch by batch, for maps of scores can be larger than memory."""
    meters: dict[str, Meter] = {}
    for rows, found in _answers(proto, split, threads, compute):
        labels = split.targets(rows)
        assert labels is not None
        for name, values in named(labels, _shapes(found)).items():
            if name not in meters:
                meters[name] = METERS[kind_of(values.ndim, values.dtype.kind == "f")]()
            meters[name].update(found[name], values)
    return float(np.mean([meter.value for meter in meters.values()]))


def named(labels: Labels, shapes: Mapping[str, tuple[int, ...]]) -> Mapping[str, np.ndarray]:
    """Labels by output name; a single array speaks of the one output that it fits."""
    if isinstance(labels, Mapping):
        return labels
    return {match_labels_to_output(labels.shape, labels.dtype.kind == "f", shapes): labels}


def _measured(measure: Measure, found: Arrays, labels: Labels | None) -> float:
    try:
        value = float(measure.function(found, labels))
    except NetadaptError:
        raise
    except Exception as error:
        raise NetadaptError(
            f"the metric {measure.name} failed: {type(error).__name__}: {error}".split("\n")[0],
            hint="it is given outputs by name and labels, numpy arrays of all samples, and returns one number",
            code="invalid-data",
        ) from error
    if not np.isfinite(value):
        raise NetadaptError(f"the metric {measure.name} is {value}: a finite number is expected", code="invalid-data")
    return value


def _answers(
    proto: onnx.ModelProto, split: Split, threads: int, compute: Compute | None
) -> Iterator[tuple[slice, Arrays]]:
    """Rows of the split and the model's outputs for them, in order."""
    layout = split.layout
    fixed = fixed_batch(proto, layout)
    size = fixed or BATCH_SIZE
    starts = range(0, len(split), size)
    fed = [min(size, len(split) - start) if fixed is None else size for start in starts]
    batches = (
        split.batch(np.minimum(np.arange(start, start + n), len(split) - 1))
        for start, n in zip(starts, fed, strict=True)
    )
    with steps("evaluating", len(split)) as report:
        answers = (compute or _here(threads, layout))(proto, batches)
        for start, n, found in zip(starts, fed, answers, strict=True):
            count = min(n, len(split) - start)
            report(start + count)
            yield slice(start, start + count), {name: v[:count] for name, v in _by_sample(found, n, layout).items()}


def _here(threads: int, layout: Layout | None) -> Compute:
    names = None if layout is None else list(layout.outputs)

    def compute(proto: onnx.ModelProto, batches: Iterable[Arrays]) -> Iterator[Arrays]:
        active = session(proto, threads=threads)
        return (run(active, inputs, names) for inputs in batches)

    return compute


def _by_sample(found: Arrays, count: int, layout: Layout | None) -> Arrays:
    """The outputs that have samples, those along the first axis."""
    if layout is None:
        return {name: _per_sample(name, value, count) for name, value in found.items()}
    arranged = {}
    for name, axis in layout.outputs.items():
        try:
            arranged[name] = axis.samples_first(found[name])
        except ValueError:
            arranged[name] = np.zeros(0)
        if len(arranged[name]) != count:
            raise _not_by_sample(name, found[name], count)
    return arranged


def _shapes(found: Mapping[str, np.ndarray]) -> dict[str, tuple[int, ...]]:
    return {name: value.shape for name, value in found.items()}


def _declared_batch(proto: onnx.ModelProto) -> int | None:
    sizes = {(declared_shape(value) or (None,))[0] for value in proto.graph.input}
    fixed = sizes - {None}
    return next(iter(fixed)) if fixed else None


def _per_sample(name: str, value: np.ndarray, count: int) -> np.ndarray:
    """Give the first axis back to the batch where a model merged it with another (boxes of all images in one list)."""
    if value.ndim and value.shape[0] == count:
        return value
    if value.ndim and value.shape[0] % count == 0:
        return value.reshape(count, value.shape[0] // count, *value.shape[1:])
    raise _not_by_sample(name, value, count)


def _not_by_sample(name: str, value: np.ndarray, count: int) -> NetadaptError:
    return NetadaptError(
        f"output '{name}' of shape {value.shape} does not hold {count} samples",
        hint="its shape depends on the data: leave it out of the model's outputs",
        code="unsupported",
    )


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
