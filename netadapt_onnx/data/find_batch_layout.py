"""Finds where a model's outputs hold their samples, by running it at two batch sizes. Imports no torch."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx

from netadapt_onnx.data.batch_layout import BatchAxis, Layout
from netadapt_onnx.errors import NetadaptError
from netadapt_onnx.graph.extract import between
from netadapt_onnx.graph.folded_model import FoldedModel
from netadapt_onnx.graph.inputs import dynamic_batch_inputs
from netadapt_onnx.graph.memory_limit import refuse_huge
from netadapt_onnx.graph.runtime import Arrays, random_inputs, run, session

# What exporters and their users call the axis of samples.
BATCH_NAMES = {"n", "b", "bs", "batch", "batchsize", "batch_size"}
# What neighbours in a batch may change, in units of an output's spread: dynamic quantisation has one scale for all.
MIXED = 0.05
_SEEDS = 2


def find_layout(folded: FoldedModel) -> Layout | None:
    """Where the outputs of a model hold their samples; None for a model that cannot be run here.

    The model runs at its own batch size and at one sample more (at twice as many where the file fixes them): the axis
    that grows is the batch's. An output of which none grows, or two, does not belong to single samples. A model that
    does not follow, or whose samples change one another's answers, is one of a single batch size. Raises NetadaptError
    for an input that does not hold a sample per entry of its first axis, and for a tensor of more than 4 GiB.
    """
    _require_batch_first(folded.proto)
    tensors, omitted = tensor_outputs(folded.proto)
    if folded.unrunnable or not tensors:
        return None if folded.unrunnable else Layout(omitted=omitted)
    growing = dynamic_batch_inputs(folded.proto)
    fixed = not growing
    growing = growing or [name for name, (shape, _) in folded.specs.items() if shape]
    if not growing:
        return None
    refuse_huge(
        folded, "the model cannot be run on samples", "give smaller inputs with --shape, or use a smaller model"
    )
    batch = folded.specs[growing[0]][0][0]
    _require_one_batch(folded, batch)
    few = random_inputs(folded.specs)
    part = between(folded.proto, few, tensors)
    many = _extended(few, growing, 2 * batch if fixed else batch + 1, folded)
    try:
        active = session(part)
        at_few = _run(active, few, part)
    except NetadaptError:
        return None
    try:
        at_many = _run(active, many, part)
    except NetadaptError:
        return _at_one_size(at_few, batch, omitted)
    count = len(many[growing[0]])
    if all(at_few[name].shape == at_many[name].shape for name in tensors):
        return _at_one_size(at_few, batch, omitted)
    outputs = {}
    for name in tensors:
        axis = _batch_axis(at_few[name], at_many[name], batch, count)
        if isinstance(axis, str):
            omitted[name] = axis
        elif name in folded.sampled and _moves_with_data(active, part, folded, name, at_few[name].shape):
            omitted[name] = "its shape depends on the data"
        else:
            outputs[name] = axis
    at_last = _run(active, {name: value[-len(few[name]) :] for name, value in many.items()}, part)
    mixing = any(_mixes(axis, (at_few[n], at_last[n]), at_many[n], batch) for n, axis in outputs.items())
    if fixed and mixing:  # sizes inside the file put other samples together: what grew says nothing
        at_own_size = _at_one_size(at_few, batch, {})
        outputs = {name: axis for name, axis in at_own_size.outputs.items() if name in outputs}
    alone = fixed or mixing
    if mixing or batch > 1:
        given, found = (few, at_few) if fixed else (many, at_many)
        backwards = {name: value[::-1].copy() if name in growing else value for name, value in given.items()}
        _require_samples(growing[0], outputs, found, _run(active, backwards, part))
    return _layout(outputs, omitted, batch if alone else None, at_few)


def _require_batch_first(proto: onnx.ModelProto) -> None:
    """Samples are taken along the first axis of every input; one that names another axis after them is refused."""
    dims = {value.name: [dim.dim_param for dim in value.type.tensor_type.shape.dim] for value in proto.graph.input}
    for name, symbols in dims.items():
        if not symbols or _is_batch(symbols[0]):
            continue
        axis = next((i for i, symbol in enumerate(symbols) if i and _is_batch(symbol)), None)
        if axis is not None:
            raise NetadaptError(
                f"input '{name}' holds its samples along axis {axis} ('{symbols[axis]}'), and data are given samples "
                "first",
                hint="export the model with the batch as its first axis (batch_first=True, or a Transpose in front)",
                code="unsupported",
            )


def _require_samples(name: str, outputs: dict[str, BatchAxis], found: Arrays, backwards: Arrays) -> None:
    """The answers for a batch in the opposite order are the answers in that order, if its entries are samples."""
    for output, axis in outputs.items():
        if found[output].shape != backwards[output].shape or found[output].dtype.kind != "f":
            continue
        a, b = (
            np.nan_to_num(np.asarray(axis.samples_first(v), np.float64)) for v in (found[output], backwards[output])
        )
        if np.abs(a - b[::-1]).mean() > MIXED * a.std():
            raise NetadaptError(
                f"the first axis of input '{name}' does not hold samples: their order changes output '{output}'",
                hint="export the model with the batch as its first axis (batch_first=True, or a Transpose in front)",
                code="unsupported",
            )


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
    """The same samples and more behind them."""
    more = {}
    for name in growing:
        shape, dtype = folded.specs[name]
        extra = random_inputs({name: ((count - shape[0], *shape[1:]), dtype)}, seed=1)[name]
        more[name] = np.concatenate([inputs[name], extra])
    return inputs | more


def _run(active: Any, inputs: Arrays, part: onnx.ModelProto) -> Arrays:
    read = {value.name for value in part.graph.input}
    return run(active, {name: value for name, value in inputs.items() if name in read})


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
    """Whether more samples in the batch change what is said of the first or the last ones, by more than rounding."""
    if many.dtype.kind != "f" or any(end.shape != ends[0].shape for end in ends):
        return False
    first, last, among = (np.nan_to_num(np.asarray(axis.samples_first(v), np.float64)) for v in (*ends, many))
    apart = max(np.abs(first - among[:count]).mean(), np.abs(last - among[-count:]).mean())
    return bool(apart > MIXED * among.std())


def _distance(axis: BatchAxis, few: np.ndarray, many: np.ndarray, count: int) -> float:
    """How far the answers for the samples that both runs saw are apart, if this is where samples lie."""
    a, b = (np.nan_to_num(np.asarray(axis.samples_first(v)[:count], np.float64)) for v in (few, many))
    return float(np.abs(a - b).mean())


def _moves_with_data(
    active: Any, part: onnx.ModelProto, folded: FoldedModel, name: str, shape: tuple[int, ...]
) -> bool:
    """Whether other samples give an output another shape; asked of those whose shape nothing else tells."""
    others = [random_inputs(folded.specs, seed) for seed in range(1, 1 + _SEEDS)]
    others.append({n: np.zeros_like(value) for n, value in others[0].items()})
    return any(_run(active, inputs, part)[name].shape != shape for inputs in others)


def _at_one_size(found: Arrays, batch: int, omitted: dict[str, str]) -> Layout:
    """For a model that runs at one batch size only: the axis that is as long, the first one if it is.

    All that one sample alone gives belongs to it, however it is laid out.
    """
    outputs = {}
    for name, value in found.items():
        axes = [axis for axis, size in enumerate(value.shape) if size == batch]
        if axes and (axes[0] == 0 or len(axes) == 1):
            outputs[name] = BatchAxis(axes[0])
        elif value.ndim and value.size and value.shape[0] % batch == 0:
            outputs[name] = BatchAxis(0, value.shape[0] // batch)
        else:
            omitted[name] = "its shape does not depend on the batch"
    return _layout(outputs, omitted, batch, found)


def _layout(outputs: dict[str, BatchAxis], omitted: dict[str, str], batch: int | None, found: Arrays) -> Layout:
    shapes = {name: tuple(axis.samples_first(found[name]).shape) for name, axis in outputs.items()}
    return Layout(outputs, omitted, batch, shapes)
