"""Axes that a file leaves free beside the batch: height and width, the length of a sequence.

A folded model is right at the sizes that were given. Evaluated at others, most show no constant that depends on them.
A Reshape target with one entry that does gets a -1 there; everything else that depends on them is not folded but
computed as the file computes it. Where a model runs at no other size its inputs get the given ones, so that the file
says what it can do.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
import onnx
from onnx import numpy_helper

from netadapt_onnx.graph.model import declared_shape
from netadapt_onnx.graph.shape_inference import Evaluation, Known

# How much longer the free axes are tried: by what strides divide, and by what they don't.
FURTHER = (32, 7)


def dynamic_dims(proto: onnx.ModelProto) -> dict[str, list[int]]:
    """By input the axes beyond the first whose size the file leaves open."""
    shapes = {value.name: declared_shape(value) or () for value in proto.graph.input}
    found = {name: [k for k, n in enumerate(shape) if n is None and k > 0] for name, shape in shapes.items()}
    return {name: axes for name, axes in found.items() if axes}


def longer(specs: Known, free: dict[str, list[int]], by: int) -> Known:
    """The input shapes with every free axis that much longer."""
    made = dict(specs)
    for name, axes in free.items():
        shape, dtype = specs[name]
        made[name] = (tuple(n + by if k in axes else n for k, n in enumerate(shape)), dtype)
    return made


def moving(names: Iterable[str], values: Evaluation, elsewhere: Sequence[Evaluation]) -> dict[str, set[int] | None]:
    """Of tensors that have a value those that depend on free axes: which entries, or None where the shape does.

    `elsewhere`: the evaluations at other sizes that the model can have.
    """
    found: dict[str, set[int] | None] = {}
    for name in names:
        if not values.has_value(name):
            continue
        original = values.value(name)
        entries: set[int] | None = set()
        for other in elsewhere:
            moved = other.value(name) if other.has_value(name) else None
            if moved is None or moved.shape != original.shape:
                entries = None
                break
            entries = (entries or set()) | {int(k) for k in np.flatnonzero(moved != original)}
        if entries is None or entries:
            found[name] = entries
    return found


def wildcards(
    moved: dict[str, set[int] | None], values: Evaluation, nodes: Iterable[onnx.NodeProto]
) -> dict[str, onnx.TensorProto]:
    """Reshape targets of which one entry depends on free axes, with a -1 there."""
    readers: dict[str, list[tuple[str, int]]] = {}
    for node in nodes:
        for slot, name in enumerate(node.input):
            readers.setdefault(name, []).append((node.op_type, slot))
    found = {}
    for name, entries in moved.items():
        value = values.value(name)
        targets = all(place == ("Reshape", 1) for place in readers.get(name, []))
        if entries is not None and len(entries) == 1 and targets and value.ndim == 1 and not (value == -1).any():
            value = value.copy()
            value[next(iter(entries))] = -1
            found[name] = numpy_helper.from_array(value, name)
    return found


def fix(graph: onnx.GraphProto, free: dict[str, list[int]], specs: Known) -> None:
    """Write the given sizes into the inputs' free axes."""
    for value in graph.input:
        for axis in free.get(value.name, []):
            value.type.tensor_type.shape.dim[axis].dim_value = specs[value.name][0][axis]
