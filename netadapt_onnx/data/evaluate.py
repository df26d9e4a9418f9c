"""Accuracy of an ONNX model on a split, in onnxruntime: the one way in which models are scored. Imports no torch."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import onnx

from netadapt_onnx.common.parallel import in_order
from netadapt_onnx.common.progress import steps
from netadapt_onnx.data.batch_layout import Layout
from netadapt_onnx.data.dataset import Labels, Split, UserMetric
from netadapt_onnx.data.metrics import METERS, NO_CLASS, Meter, top_class
from netadapt_onnx.data.shapes import Outputs
from netadapt_onnx.data.tasks import class_output, kind_of, match_labels_to_output, output_forms
from netadapt_onnx.errors import NetadaptError, invalid_data
from netadapt_onnx.graph.inputs import declared_shape
from netadapt_onnx.graph.runtime import Arrays, run, session

# A batch is as large as its inputs' bytes allow, between these: what is computed of it should fit into the caches.
BATCH_BYTES, SMALLEST_BATCH, LARGEST_BATCH = 5_000_000, 8, 64
# Runs a model on batches of inputs by name, elsewhere than in this process; returns outputs by name, in order.
Compute = Callable[[onnx.ModelProto, Iterable[Arrays]], Iterable[Arrays]]


@dataclass(frozen=True)
class Accuracy:
    """How good a model is.

    Attributes:
        value: Higher is better, 1 is perfect. Outputs that are NaN or infinite count as wrong.
        metric: `top1`, `r2` or `miou` against labels, the user's own, or without labels `agreement` with a reference
            model, a fraction in [0, 1].
        samples: How many samples were scored.
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
    """Score a model on a split.

    Args:
        proto: The model.
        split: The samples.
        reference: What `reference_outputs` returned for the model to agree with.
        threads: How many batches are computed at a time.
        compute: Runs the model elsewhere; None: onnxruntime in this process.

    Raises:
        NetadaptError: The split is empty, there are neither labels nor a reference, or the user's metric fails.
    """
    if not len(split):
        raise invalid_data("the data hold no samples for this split")
    if split.user_metric is not None:
        values = outputs(proto, split, threads=threads, compute=compute)
        if split.layout is not None:  # the user's functions see outputs as the model gives them
            values = {name: split.layout.outputs[name].as_put_out(value) for name, value in values.items()}
        score = _user_score(split.user_metric, values, split.targets())
    elif split.labels is not None:
        score = _score_against_labels(proto, split, threads, compute)
    elif reference is None:
        raise invalid_data("without labels, accuracy needs the original model's outputs")
    else:
        values = outputs(proto, split, threads=threads, compute=compute)
        forms = output_forms(proto, _shapes(values), split.layout)
        score = agreement(values, reference, {n: form.axis for n, form in forms.items() if form.form != "values"})
    return Accuracy(score, split.metric, len(split))


def accuracy_of_part(
    proto: onnx.ModelProto, split: Split, rows: np.ndarray, *, threads: int = 1
) -> tuple[Accuracy, Accuracy]:
    """Score a model against the labels of a split, and of some of its samples, in one pass.

    Args:
        proto: The model.
        split: The samples, scored against their labels by this package's metrics.
        rows: The numbers of those samples, at least one.
        threads: How many batches are computed at a time.
    """
    of_all, of_part = _Meters(), _Meters()
    chosen = np.isin(np.arange(len(split)), rows)
    for at, values in _output_batches(proto, split, threads, None):
        of_all.update(values, split.targets(at))
        within = np.flatnonzero(chosen[at])
        if len(within):
            part = {name: value[within] for name, value in values.items()}
            of_part.update(part, split.targets(at.start + within))
    return Accuracy(of_all.value, split.metric, len(split)), Accuracy(of_part.value, split.metric, len(rows))


def reference_outputs(split: Split, proto: onnx.ModelProto, *, threads: int = 1) -> Arrays | None:
    """What models on a split are compared with, where it has neither labels nor a metric of the user's; else None.

    Args:
        split: The samples.
        proto: The model to agree with.
        threads: How many batches are computed at a time.

    Returns:
        Its outputs, (len(split), ...) by name.
    """
    has_metric = split.labels is not None or split.user_metric is not None
    return None if has_metric else outputs(proto, split, threads=threads)


def outputs(proto: onnx.ModelProto, split: Split, *, threads: int = 1, compute: Compute | None = None) -> Arrays:
    """Run a model on a split.

    A model with a fixed batch is fed batches of that size, the last one filled up.

    Args:
        proto: The model.
        split: The samples.
        threads: How many batches are computed at a time.
        compute: Runs the model elsewhere; None: onnxruntime in this process.

    Returns:
        All outputs that have samples, (len(split), ...) by name.
    """
    parts = [values for _, values in _output_batches(proto, split, threads, compute)]
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def agreement(
    values: Mapping[str, np.ndarray], reference: Mapping[str, np.ndarray], axes: Mapping[str, int] | None = None
) -> float:
    """How far two models' outputs agree, the mean over outputs, in [0, 1].

    Of scores, the share of samples with equal top classes; of integers, the share that are equal; of any other output,
    the share of the reference's variance that is explained. A sample that is not finite in either model explains
    nothing.

    Args:
        values: A model's outputs, (N, ...) by name.
        reference: The outputs to agree with, of the same shapes.
        axes: The axis of scores of each output that holds them; (N, classes) needs none.
    """
    if values.keys() != reference.keys():
        raise NetadaptError(f"outputs {sorted(values)} cannot be compared with {sorted(reference)}")
    return float(np.mean([_agreement(n, values[n], target, (axes or {}).get(n)) for n, target in reference.items()]))


def _agreement(name: str, value: np.ndarray, target: np.ndarray, axis: int | None) -> float:
    """How far one output agrees with its reference, in [0, 1]."""
    if value.shape != target.shape:
        raise NetadaptError(f"output '{name}' of shape {value.shape} cannot be compared with {target.shape}")
    if class_output({name: target.shape}) is not None:
        value, target, axis = value.reshape(len(value), -1), target.reshape(len(target), -1), 1
    if axis is not None:
        classes = top_class(value, axis)
        return float(np.mean((classes == top_class(target, axis)) & (classes != NO_CLASS)))
    if target.dtype.kind in "iub":
        return float(np.mean(value == target))
    return _explained_variance(value.astype(np.float64), target.astype(np.float64))


def batch_size(proto: onnx.ModelProto, split: Split) -> int:
    """The batch of one run: the only one at which the model runs, else a size that caches well."""
    return fixed_batch(proto, split.layout) or _cached_batch_size(split)


def _cached_batch_size(split: Split) -> int:
    sample = sum(4 * math.prod(values.shape[1:]) for values in split.inputs.values())
    return max(SMALLEST_BATCH, min(LARGEST_BATCH, BATCH_BYTES // max(1, sample)))


def fixed_batch(proto: onnx.ModelProto, layout: Layout | None) -> int | None:
    """The only batch size at which onnxruntime runs a model: declared in the file, or implied by it; None: any."""
    sizes = ((declared_shape(value) or (None,))[0] for value in proto.graph.input)
    return next(filter(None, sizes), None) or (None if layout is None else layout.batch)


def labels_by_output(labels: Labels, shapes: Outputs) -> Mapping[str, np.ndarray]:
    """Labels by output name; a single array is for the one output that it fits."""
    if isinstance(labels, Mapping):
        return labels
    return {match_labels_to_output(labels.shape, labels.dtype.kind == "f", shapes): labels}


def _score_against_labels(proto: onnx.ModelProto, split: Split, threads: int, compute: Compute | None) -> float:
    """The mean over labelled outputs; batch by batch, for maps of scores can be larger than memory."""
    meters = _Meters()
    for rows, values in _output_batches(proto, split, threads, compute):
        meters.update(values, split.targets(rows))
    return meters.value


class _Meters:
    """The metric of every labelled output; `value` is their mean."""

    def __init__(self) -> None:
        self._meters: dict[str, Meter] = {}

    def update(self, values: Arrays, labels: Labels | None) -> None:
        """Add outputs and labels of some samples."""
        assert labels is not None
        for name, targets in labels_by_output(labels, _shapes(values)).items():
            if name not in self._meters:
                self._meters[name] = METERS[kind_of(targets.ndim, targets.dtype.kind == "f")]()
            self._meters[name].update(values[name], targets)

    @property
    def value(self) -> float:
        return float(np.mean([meter.value for meter in self._meters.values()]))


def _user_score(metric: UserMetric, values: Arrays, labels: Labels | None) -> float:
    try:
        score = float(metric.function(values, labels))
    except NetadaptError:
        raise
    except Exception as error:
        raise invalid_data(
            f"the metric {metric.name} failed: {type(error).__name__}: {error}".split("\n")[0],
            "it is given outputs by name and labels, numpy arrays of all samples, and returns one number",
        ) from error
    if not np.isfinite(score):
        raise invalid_data(f"the metric {metric.name} is {score}: a finite number is expected")
    return score


def _output_batches(
    proto: onnx.ModelProto, split: Split, threads: int, compute: Compute | None
) -> Iterator[tuple[slice, Arrays]]:
    """Rows of the split and the model's outputs for them, samples first, in order."""
    layout = split.layout
    fixed = fixed_batch(proto, layout)
    size = fixed or _cached_batch_size(split)
    starts = range(0, len(split), size)
    fed = [min(size, len(split) - start) if fixed is None else size for start in starts]
    batches = (
        split.batch(np.minimum(np.arange(start, start + n), len(split) - 1))
        for start, n in zip(starts, fed, strict=True)
    )
    with steps("evaluating", len(split)) as report:
        results = (compute or _in_this_process(threads, layout))(proto, batches)
        for start, n, values in zip(starts, fed, results, strict=True):
            count = min(n, len(split) - start)
            report(start + count)
            yield slice(start, start + count), {name: v[:count] for name, v in _by_sample(values, n, layout).items()}


def _in_this_process(threads: int, layout: Layout | None) -> Compute:
    names = None if layout is None else list(layout.outputs)

    def compute(proto: onnx.ModelProto, batches: Iterable[Arrays]) -> Iterator[Arrays]:
        # Batches side by side, of a thread each: on 2 cores a fifth faster than two threads that share a batch.
        active = session(proto, threads=1)
        return in_order(lambda inputs: run(active, inputs, names), batches, threads)

    return compute


def _by_sample(values: Arrays, count: int, layout: Layout | None) -> Arrays:
    """The outputs that have samples, those along the first axis."""
    if layout is None:
        return {name: _per_sample(name, value, count) for name, value in values.items()}
    arranged = {}
    for name, axis in layout.outputs.items():
        try:
            arranged[name] = axis.samples_first(values[name])
        except ValueError:
            arranged[name] = np.zeros(0)
        if len(arranged[name]) != count:
            raise _not_by_sample(name, values[name], count)
    return arranged


def _shapes(values: Mapping[str, np.ndarray]) -> dict[str, tuple[int, ...]]:
    return {name: value.shape for name, value in values.items()}


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


def _explained_variance(value: np.ndarray, target: np.ndarray) -> float:
    """The share of the variance of `target` that `value` explains, in [0, 1]."""
    return max(0.0, _variance_share(value, target)) * float(_finite_samples(target).mean())


def _variance_share(value: np.ndarray, target: np.ndarray) -> float:
    """The share of the variance of those samples of `target` that are finite that `value` explains, at most 1."""
    comparable, finite = _finite_samples(target), _finite_samples(value)
    if not comparable.any():
        return 0.0
    mean = target[comparable].mean()
    both = comparable & finite
    spread = float(np.sum((target[comparable] - mean) ** 2))
    # What is not finite is as good as no answer: the mean.
    error = float(np.sum((value[both] - target[both]) ** 2) + np.sum((target[comparable & ~finite] - mean) ** 2))
    return 1 - error / spread if spread > 0 else float(np.array_equal(value[both], target[comparable]))


def _finite_samples(values: np.ndarray) -> np.ndarray:
    """Which samples hold nothing but finite numbers, (len(values),)."""
    finite: np.ndarray = np.isfinite(values).all(axis=tuple(range(1, values.ndim)))
    return finite


def explained(values: Mapping[str, np.ndarray], reference: Mapping[str, np.ndarray]) -> float:
    """The share of the variance of a model's outputs that another's explain, the mean over outputs, at most 1.

    Unlike `agreement` it is smooth, and tells small differences apart on few samples. Of integers it is the share that
    are equal.

    Args:
        values: The other model's outputs, (N, ...) by name.
        reference: The model's outputs, of the same shapes.
    """
    return float(np.mean([_explained(values[name], target) for name, target in reference.items()]))


def _explained(value: np.ndarray, target: np.ndarray) -> float:
    if target.dtype.kind in "iub":
        return float(np.mean(value == target))
    return _variance_share(value.astype(np.float64), target.astype(np.float64))
