"""Finds where the outputs of a model hold their samples, by running it at two batch sizes. Imports no torch."""

from __future__ import annotations

from functools import cached_property
from typing import Any

import numpy as np
import onnx

from netadapt_onnx.data.batch_layout import BatchAxis, Layout
from netadapt_onnx.errors import NetadaptError
from netadapt_onnx.graph.extract import between
from netadapt_onnx.graph.folded_model import FoldedModel, refuse_huge
from netadapt_onnx.graph.inputs import dynamic_batch_inputs
from netadapt_onnx.graph.runtime import Arrays, random_inputs, run, session

# What exporters and their users call the axis of samples.
BATCH_NAMES = {"n", "b", "bs", "batch", "batchsize", "batch_size"}
# What neighbours in a batch may change, in units of an output's spread: dynamic quantisation has one scale for all.
MIXED = 0.05
_SEEDS = 2


def find_layout(folded: FoldedModel) -> Layout | None:
    """Where the outputs of a model hold their samples.

    The model runs at its own batch size and at one sample more (at twice as many where the file fixes them): the axis
    that grows is the batch's. An output of which none grows, or two, does not belong to single samples. A model that
    does not follow, or whose samples change one another's outputs, is one of a single batch size.

    Args:
        folded: The model, normalised.

    Returns:
        The layout; None for a model that cannot be run on this machine.

    Raises:
        NetadaptError: An input does not hold a sample per entry of its first axis, or a tensor exceeds 4 GiB.
    """
    _require_batch_first(folded.proto)
    tensors, omitted = tensor_outputs(folded.proto)
    if folded.unrunnable or not tensors:
        return None if folded.unrunnable else Layout(omitted=omitted)
    dynamic = dynamic_batch_inputs(folded.proto)
    growing = dynamic or [name for name, (shape, _) in folded.specs.items() if shape]
    if not growing:
        return None
    refuse_huge(
        folded, "the model cannot be run on samples", "give smaller inputs with --shape, or use a smaller model"
    )
    probe = _Probe(folded, tensors, growing, is_fixed=not dynamic)
    try:
        at_few = probe.run(probe.few)
    except NetadaptError:
        return None
    try:
        at_many = probe.run(probe.many)
    except NetadaptError:
        return _at_one_size(at_few, probe.batch, omitted)
    if all(at_few[name].shape == at_many[name].shape for name in tensors):
        return _at_one_size(at_few, probe.batch, omitted)
    return _compare_sizes(probe, at_few, at_many, omitted)


class _Probe:
    """A model that is run at its own batch size and at a larger one.

    Attributes:
        folded: The model, normalised.
        tensors: Its outputs that are tensors of numbers.
        growing: Inputs whose first axis is the batch's.
        is_fixed: Whether the file fixes the batch size.
        batch: Its own batch size.
        few: Inputs of that batch size.
        many: The same samples, and more behind them.
    """

    def __init__(self, folded: FoldedModel, tensors: list[str], growing: list[str], *, is_fixed: bool) -> None:
        self.folded = folded
        self.tensors = tensors
        self.growing = growing
        self.is_fixed = is_fixed
        self.batch = folded.specs[growing[0]][0][0]
        _require_one_batch(folded, self.batch)
        self.few = random_inputs(folded.specs)
        self._part = between(folded.proto, self.few, tensors)
        self.count = 2 * self.batch if is_fixed else self.batch + 1
        self.many = _extended(self.few, growing, self.count, folded)

    @cached_property
    def _session(self) -> Any:
        return session(self._part)

    def run(self, inputs: Arrays) -> Arrays:
        """Outputs by name. Raises NetadaptError where onnxruntime does."""
        read = {value.name for value in self._part.graph.input}
        return run(self._session, {name: value for name, value in inputs.items() if name in read})

    def run_last(self) -> Arrays:
        """Outputs for the last samples of `many`, as many as its own batch size."""
        return self.run({name: value[-len(self.few[name]) :] for name, value in self.many.items()})

    def run_backwards(self, inputs: Arrays) -> Arrays:
        """Outputs for the same samples in the opposite order."""
        return self.run({n: value[::-1].copy() if n in self.growing else value for n, value in inputs.items()})

    def has_data_dependent_shape(self, name: str, shape: tuple[int, ...]) -> bool:
        """Whether other samples give an output another shape, where its shape is known by running alone."""
        if name not in self.folded.sampled:
            return False
        others = [random_inputs(self.folded.specs, seed) for seed in range(1, 1 + _SEEDS)]
        others.append({n: np.zeros_like(value) for n, value in others[0].items()})
        return any(self.run(inputs)[name].shape != shape for inputs in others)


def _compare_sizes(probe: _Probe, at_few: Arrays, at_many: Arrays, omitted: dict[str, str]) -> Layout:
    """The layout of a model that runs at two batch sizes, from its outputs at both."""
    outputs: dict[str, BatchAxis] = {}
    for name in probe.tensors:
        few = at_few[name]
        axis = _batch_axis(few, at_many[name], probe.batch, probe.count)
        if isinstance(axis, str):
            omitted[name] = axis
        elif probe.has_data_dependent_shape(name, few.shape):
            omitted[name] = "its shape depends on the data"
        else:
            outputs[name] = axis
    at_last = probe.run_last()
    mixes = any(_mixes(axis, (at_few[n], at_last[n]), at_many[n], probe.batch) for n, axis in outputs.items())
    if probe.is_fixed and mixes:  # sizes inside the file regroup the samples: the axis that grew is not evidence
        at_own_size = _at_one_size(at_few, probe.batch, {})
        outputs = {name: axis for name, axis in at_own_size.outputs.items() if name in outputs}
    if mixes or probe.batch > 1:
        inputs, forwards = (probe.few, at_few) if probe.is_fixed else (probe.many, at_many)
        _require_samples(probe.growing[0], outputs, forwards, probe.run_backwards(inputs))
    return _layout(outputs, omitted, probe.batch if probe.is_fixed or mixes else None, at_few)


def _require_batch_first(proto: onnx.ModelProto) -> None:
    """Samples are taken along the first axis of every input; one that names another axis after them is refused."""
    dims = {value.name: [dim.dim_param for dim in value.type.tensor_type.shape.dim] for value in proto.graph.input}
    for name, symbols in dims.items():
        if not symbols or _is_batch(symbols[0]):
            continue
        axis = next((i for i, symbol in enumerate(symbols) if i and _is_batch(symbol)), None)
        if axis is not None:
            raise _not_batch_first(
                f"input '{name}' holds its samples along axis {axis} ('{symbols[axis]}'), and data are given samples "
                "first"
            )


def _require_samples(name: str, outputs: dict[str, BatchAxis], forwards: Arrays, backwards: Arrays) -> None:
    """Check that the outputs for a batch in the opposite order are the outputs in that order."""
    for output, axis in outputs.items():
        if forwards[output].shape != backwards[output].shape or forwards[output].dtype.kind != "f":
            continue
        a, b = (_numbers(axis, values[output]) for values in (forwards, backwards))
        if np.abs(a - b[::-1]).mean() > MIXED * a.std():
            raise _not_batch_first(
                f"the first axis of input '{name}' does not hold samples: their order changes output '{output}'"
            )


def _not_batch_first(message: str) -> NetadaptError:
    hint = "export the model with the batch as its first axis (batch_first=True, or a Transpose in front)"
    return NetadaptError(message, hint=hint, code="unsupported")


def _require_one_batch(folded: FoldedModel, batch: int) -> None:
    """A sample is one entry of the first axis of each input, so these axes are alike."""
    other = next((name for name, (shape, _) in folded.specs.items() if shape[:1] != (batch,)), None)
    if other is not None:
        shape = "x".join(map(str, folded.specs[other][0])) or "a single number"
        raise NetadaptError(
            f"input '{other}' ({shape}) does not hold a sample per entry of its first axis, as data are given: the "
            f"batch is {batch}",
            hint="export the model with that input as a constant, or with the batch as its first axis",
            code="unsupported",
        )


def _is_batch(symbol: str) -> bool:
    return symbol.lower() in BATCH_NAMES or "batch" in symbol.lower()


def tensor_outputs(proto: onnx.ModelProto) -> tuple[list[str], dict[str, str]]:
    """Outputs that are tensors of numbers, and why the others cannot be scored."""
    producers = {name: node.op_type for node in proto.graph.node for name in node.output}
    tensors, omitted = [], {}
    for value in proto.graph.output:
        kind = value.type.WhichOneof("value")
        by = f" (by {producers[value.name]})" if value.name in producers else ""
        if kind not in (None, "tensor_type"):
            omitted[value.name] = f"it is no tensor ({str(kind).removesuffix('_type')}){by}"
        elif value.type.tensor_type.elem_type == onnx.TensorProto.STRING:
            omitted[value.name] = f"it holds texts{by}"
        else:
            tensors.append(value.name)
    return tensors, omitted


def _extended(inputs: Arrays, growing: list[str], count: int, folded: FoldedModel) -> Arrays:
    """The same samples and more behind them, `count` in all."""
    more = {}
    for name in growing:
        shape, dtype = folded.specs[name]
        extra = random_inputs({name: ((count - shape[0], *shape[1:]), dtype)}, seed=1)[name]
        more[name] = np.concatenate([inputs[name], extra])
    return inputs | more


def _batch_axis(few: np.ndarray, many: np.ndarray, count: int, more: int) -> BatchAxis | str:
    """The axis that grows with the batch, or why there is none."""
    if few.ndim != many.ndim:
        return "its number of axes depends on the batch"
    grown = [axis for axis in range(few.ndim) if few.shape[axis] != many.shape[axis]]
    if not grown:
        return "its shape does not depend on the batch"
    if len(grown) > 1:
        axes = " and ".join(map(str, grown))
        return f"its axes {axes} both grow with the batch, so that it belongs to no single sample"
    axis = grown[0]
    per_sample = few.shape[axis] // count
    if not per_sample or (few.shape[axis], many.shape[axis]) != (per_sample * count, per_sample * more):
        return f"its axis {axis} does not grow in proportion to the batch: its shape depends on the data"
    plain = BatchAxis(axis, per_sample)
    interleaved = BatchAxis(axis, per_sample, interleaved=True)
    if per_sample == 1 or _distance(interleaved, few, many, count) >= _distance(plain, few, many, count):
        return plain
    return interleaved


def _mixes(axis: BatchAxis, ends: tuple[np.ndarray, np.ndarray], many: np.ndarray, count: int) -> bool:
    """Whether more samples in the batch change the outputs for the first or the last ones, by more than rounding."""
    if many.dtype.kind != "f" or any(end.shape != ends[0].shape for end in ends):
        return False
    first, last, among = (_numbers(axis, values) for values in (*ends, many))
    apart = max(np.abs(first - among[:count]).mean(), np.abs(last - among[-count:]).mean())
    return bool(apart > MIXED * among.std())


def _distance(axis: BatchAxis, few: np.ndarray, many: np.ndarray, count: int) -> float:
    """How far the outputs for the samples of both runs are apart, if this axis holds them."""
    a, b = (_numbers(axis, values)[:count] for values in (few, many))
    return float(np.abs(a - b).mean())


def _numbers(axis: BatchAxis, values: np.ndarray) -> np.ndarray:
    """An output with samples along its first axis, as finite float64."""
    return np.nan_to_num(np.asarray(axis.samples_first(values), np.float64))


def _at_one_size(values: Arrays, batch: int, omitted: dict[str, str]) -> Layout:
    """For a model that runs at one batch size only: the axis that is as long, the first one if it is.

    All outputs for one sample alone belong to it, whatever their layout.
    """
    outputs = {}
    for name, value in values.items():
        axes = [axis for axis, size in enumerate(value.shape) if size == batch]
        if axes and (axes[0] == 0 or len(axes) == 1):
            outputs[name] = BatchAxis(axes[0])
        elif value.ndim and value.size and value.shape[0] % batch == 0:
            outputs[name] = BatchAxis(0, value.shape[0] // batch)
        else:
            omitted[name] = "its shape does not depend on the batch"
    return _layout(outputs, omitted, batch, values)


def _layout(outputs: dict[str, BatchAxis], omitted: dict[str, str], batch: int | None, values: Arrays) -> Layout:
    shapes = {name: tuple(axis.samples_first(values[name]).shape) for name, axis in outputs.items()}
    return Layout(outputs, omitted, batch, shapes)
