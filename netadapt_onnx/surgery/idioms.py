"""Idioms replaced by the one operator they spell, so that they couple no channels that nothing needs coupled.

A channel shuffle is a fixed permutation of channels. Spelled as Reshape, Transpose, Reshape it can only be cut to equal
counts in every shuffle group, which after a few ShuffleNet units ties all channels into one; as a Gather it can be cut
anywhere (and took 0.7 times as long in onnxruntime 1.31). A recurrent layer that starts from zeros needs no initial
state; one zero tensor that several layers take slices of would tie their hidden units.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import chain, count

import numpy as np
import onnx
from onnx import numpy_helper

from netadapt_onnx.folding import Folded
from netadapt_onnx.light import without_weights
from netadapt_onnx.model import node_name
from netadapt_onnx.subgraphs import captured
from netadapt_onnx.surgery.labels import Unsupported, on_axis, squeeze
from netadapt_onnx.surgery.rules.movement import regroup
from netadapt_onnx.surgery.ties import Array

REGROUPING = {"Reshape", "Flatten", "Squeeze", "Unsqueeze"}
RECURRENT = {"LSTM": (5, 6), "GRU": (5,), "RNN": (5,)}
# Operators that put out nothing but what is in their first input (or, ConstantOfShape, a value of their own).
MOVING = {"Expand", "Slice", "Gather", "Split", "Tile", "Cast", "Identity", "Transpose"} | REGROUPING
LONGEST_CHAIN = 8


def canonical(folded: Folded) -> Folded:
    """A folded model in which idioms are replaced; the same object if there are none."""
    graph = folded.proto.graph
    producer = {name: node for node in graph.node for name in node.output if name}
    readers: dict[str, int] = {}
    for node in graph.node:
        for name in (*node.input, *captured(node)):
            readers[name] = readers.get(name, 0) + 1
    for value in graph.output:
        readers[value.name] = readers.get(value.name, 0) + 1
    constants = {t.name: t for t in graph.initializer}
    made: dict[str, tuple[onnx.NodeProto, onnx.TensorProto | None]] = {}
    for node in graph.node:
        if node.op_type in REGROUPING:
            found = _shuffle(node, folded.shapes, producer, readers)
            if found is not None:
                made[node.output[0]] = _gather(node, *found, taken=folded.shapes)
        elif node.op_type in RECURRENT:
            states = [slot for slot in RECURRENT[node.op_type] if slot < len(node.input) and node.input[slot]]
            if states and all(_zero(node.input[slot], producer, constants) for slot in states):
                made[node.output[0] or node.output[1]] = (_without(node, states), None)
    return _rewritten(folded, made) if made else folded


def _shuffle(
    last: onnx.NodeProto,
    shapes: Mapping[str, Sequence[int]],
    producer: Mapping[str, onnx.NodeProto],
    readers: Mapping[str, int],
) -> tuple[str, int, Array] | None:
    """(source, axis, order) if a chain of regroupings and transpositions ends here that permutes one axis alone."""
    chain = [last]
    while len(chain) <= LONGEST_CHAIN:
        source = chain[-1].input[0]
        if len(chain) > 2 and source in shapes and tuple(shapes[source]) == tuple(shapes[last.output[0]]):
            permuted = _permutation(chain[::-1], shapes)
            if permuted is not None:
                return (source, *permuted)
        above = producer.get(source)
        if above is None or above.op_type not in REGROUPING | {"Transpose"} or readers[source] > 1:
            return None
        chain.append(above)
    return None


def _permutation(chain: Sequence[onnx.NodeProto], shapes: Mapping[str, Sequence[int]]) -> tuple[int, Array] | None:
    """(axis, order) of the one axis that the chain permutes; None if it mixes axes or changes nothing."""
    shape = shapes[chain[0].input[0]]
    found: tuple[int, Array] | None = None
    for axis, length in enumerate(shape):
        if length == 1:
            continue
        positions = on_axis(np.arange(1, length + 1), axis, len(shape))
        for node in chain:
            try:
                positions = _moved(positions, node, shapes)
            except Unsupported:
                return None
        positions = squeeze(positions)
        if positions.size != length or positions.shape[axis] != length:
            return None
        order = positions.reshape(-1) - 1
        if not np.array_equal(order, np.arange(length)):
            if found is not None:
                return None
            found = axis, order
    return found


def _moved(positions: Array, node: onnx.NodeProto, shapes: Mapping[str, Sequence[int]]) -> Array:
    if node.op_type == "Transpose":
        order = next((list(a.ints) for a in node.attribute if a.name == "perm"), None)
        return positions.transpose(order)
    return regroup(positions, tuple(shapes[node.input[0]]), tuple(shapes[node.output[0]]))


def _gather(
    node: onnx.NodeProto, source: str, axis: int, order: Array, taken: Mapping[str, object]
) -> tuple[onnx.NodeProto, onnx.TensorProto]:
    base = f"{node_name(node)}/order"
    name = next(n for n in chain([base], (f"{base}_{i}" for i in count(1))) if n not in taken)
    made = onnx.helper.make_node("Gather", [source, name], list(node.output), name=node.name, axis=axis)
    return made, numpy_helper.from_array(order.astype(np.int64), name)


def _zero(name: str, producer: Mapping[str, onnx.NodeProto], constants: Mapping[str, onnx.TensorProto]) -> bool:
    """Whether a tensor holds nothing but zeros, whatever the inputs are."""
    if name in constants:
        return not numpy_helper.to_array(constants[name]).any()
    node = producer.get(name)
    if node is None:
        return False
    if node.op_type == "ConstantOfShape":
        return not any(numpy_helper.to_array(a.t).any() for a in node.attribute)
    return node.op_type in MOVING and _zero(node.input[0], producer, constants)


def _without(node: onnx.NodeProto, slots: Sequence[int]) -> onnx.NodeProto:
    made = onnx.NodeProto()
    made.CopyFrom(node)
    for slot in slots:
        made.input[slot] = ""
    while made.input and not made.input[-1]:
        del made.input[-1]
    return made


def _rewritten(folded: Folded, made: Mapping[str, tuple[onnx.NodeProto, onnx.TensorProto | None]]) -> Folded:
    """The model with some nodes replaced, and without the nodes and constants that nothing reads any more."""
    old = folded.proto.graph
    nodes = [made.get(next((o for o in n.output if o), ""), (n, None))[0] for n in old.node]
    added = [tensor for _, tensor in made.values() if tensor is not None]
    needed = {value.name for value in old.output}
    kept: list[onnx.NodeProto] = []
    for node in reversed(nodes):
        if not needed.isdisjoint(node.output):
            kept.append(node)
            needed.update([*node.input, *captured(node)])
    proto = without_weights(folded.proto)
    del proto.graph.node[:]
    proto.graph.node.extend(kept[::-1])
    proto.graph.initializer.extend(tensor for tensor in old.initializer if tensor.name in needed)
    proto.graph.initializer.extend(added)
    gone = set(folded.shapes) - needed - {name for node in kept for name in node.output} - set(folded.specs)
    arrays = {tensor.name: numpy_helper.to_array(tensor) for tensor in added}
    shapes = {k: v for k, v in folded.shapes.items() if k not in gone} | {k: v.shape for k, v in arrays.items()}
    dtypes = {k: v for k, v in folded.dtypes.items() if k not in gone} | {k: v.dtype for k, v in arrays.items()}
    return replace(folded, proto=proto, shapes=shapes, dtypes=dtypes)
