"""What of a graph depends on sizes that its file leaves open: the batch, height and width, the length of a sequence.

A folded model is right at the sizes that it was evaluated at. Evaluated at others, most show no constant that depends
on them. What depends on the batch gets a formula (`symbolic_batch.py`). Beside it, a Reshape target with one entry that
depends on other dynamic axes gets a -1 there, and everything else that does stays computed as the file computes it.
Where a model runs at no other size, its inputs get the sizes of the evaluation, so that the file says what it can do.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import onnx
from onnx import numpy_helper

from netadapt_onnx.graph.inputs import declared_shape, dynamic_batch_inputs, longer
from netadapt_onnx.graph.shape_evaluator import ShapeEvaluator
from netadapt_onnx.graph.shape_inference import Evaluation
from netadapt_onnx.graph.shapes import Specs
from netadapt_onnx.graph.size_dependence import DynamicDims, SizeDependence

# How much longer dynamic axes are tried: by what strides divide, and by what they don't.
FURTHER = (32, 7)


def find_size_dependence(
    evaluator: ShapeEvaluator, evaluation: Evaluation, specs: Specs, batch_size: int
) -> SizeDependence:
    """Evaluate a graph at other sizes than those of `evaluation`, whose inputs have `specs`, and compare."""
    proto = evaluator.proto
    shape_made = evaluator.computed_from_shapes()
    batch_inputs = dynamic_batch_inputs(proto)
    next_batch = evaluator.at_next_batch(specs, batch_inputs, batch_size) if batch_inputs and shape_made else None
    dims = dynamic_dims(proto) if shape_made else {}
    others = [evaluator.at_if_possible(longer(specs, dims, by), batch_size) for by in FURTHER] if dims else []
    possible = [other for other in others if other is not None]
    moving = _moving(shape_made, evaluation, possible)
    wildcards = _wildcards(moving, evaluation, proto.graph.node)
    computed = frozenset(moving.keys() - wildcards.keys())
    fixed = {} if possible else dims
    return SizeDependence(frozenset(shape_made), batch_inputs, next_batch, computed, wildcards, fixed)


def dynamic_dims(proto: onnx.ModelProto) -> dict[str, list[int]]:
    """By input the axes beyond the first whose size the file leaves open."""
    shapes = {value.name: declared_shape(value) or () for value in proto.graph.input}
    dims = {name: [k for k, n in enumerate(shape) if n is None and k > 0] for name, shape in shapes.items()}
    return {name: axes for name, axes in dims.items() if axes}


def fix_dims(graph: onnx.GraphProto, dims: DynamicDims, specs: Specs) -> None:
    """Write sizes into dynamic axes of the inputs, in place."""
    for value in graph.input:
        for axis in dims.get(value.name, []):
            value.type.tensor_type.shape.dim[axis].dim_value = specs[value.name][0][axis]


def _moving(names: Iterable[str], evaluation: Evaluation, others: Sequence[Evaluation]) -> dict[str, set[int] | None]:
    """Of tensors that have a value those that depend on the sizes: which entries, or None where the shape does.

    `others` are the evaluations at other sizes that the model can have.
    """
    moving: dict[str, set[int] | None] = {}
    for name in names:
        if not evaluation.has_value(name):
            continue
        original = evaluation.value(name)
        values = [other.value(name) for other in others if other.has_value(name)]
        if len(values) < len(others) or any(value.shape != original.shape for value in values):
            moving[name] = None
        elif entries := {int(k) for value in values for k in np.flatnonzero(value != original)}:
            moving[name] = entries
    return moving


def _wildcards(
    moving: Mapping[str, set[int] | None], evaluation: Evaluation, nodes: Iterable[onnx.NodeProto]
) -> dict[str, onnx.TensorProto]:
    """Reshape targets of which one entry depends on the sizes, with a -1 there."""
    used = {n for node in nodes for slot, n in enumerate(node.input) if (node.op_type, slot) != ("Reshape", 1)}
    wildcards = {}
    for name, entries in moving.items():
        value = evaluation.value(name)
        is_target = name not in used and value.ndim == 1
        if entries is not None and len(entries) == 1 and is_target and not (value == -1).any():
            value = value.copy()
            value[next(iter(entries))] = -1
            wildcards[name] = numpy_helper.from_array(value, name)
    return wildcards
