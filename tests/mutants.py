"""Broken models: bytes of small ones changed at random, and fields of their protobufs."""

from __future__ import annotations

import random

import onnx
from onnx import TensorProto

import models
import rule_cases

# Small ones: most bytes are then structure and not weights.
SOURCES = [
    models.plain((3, 4), size=4),
    models.residual(3, size=4),
    models.grouped(4, size=4, groups=2),
    models.concatenated(2, size=4),
    models.transposed(2, size=4),
    models.fully_connected(2, size=4, hidden=4),
    models.channels_last(3, size=4),
    *(rule_cases.build("", op) for op in ("Slice", "Split", "Einsum", "LSTM", "Reshape", "Expand", "ConstantOfShape")),
    *(rule_cases.build("", op) for op in ("Pad", "Resize", "Gather", "Tile", "Concat", "GroupNormalization")),
]
NUMBERS = (0, 1, -1, 2, 3, 7, 100, 2**31, 2**40, -(2**62))


def mutant(seed: int) -> bytes:
    """A broken model, the same for the same seed."""
    rng = random.Random(seed)
    source = rng.choice(SOURCES)
    if rng.random() < 0.5:
        return _bytes(source.SerializeToString(), rng)
    proto = onnx.ModelProto.FromString(source.SerializeToString())
    for _ in range(rng.choice((1, 1, 2, 3))):
        rng.choice(FIELDS)(proto.graph, rng)
    return proto.SerializeToString()


def _bytes(data: bytes, rng: random.Random) -> bytes:
    changed = bytearray(data)
    for _ in range(rng.choice((1, 1, 2, 4, 16))):
        at, kind = rng.randrange(len(changed)), rng.randrange(5)
        if kind <= 1:
            changed[at] = rng.randrange(256)
        elif kind == 2:
            changed[at] ^= 1 << rng.randrange(8)
        elif kind == 3:
            del changed[at : at + rng.randrange(1, 8)]
        else:
            start = rng.randrange(len(changed))
            changed[at:at] = changed[start : start + rng.randrange(1, 32)]
        if not changed:
            break
    return bytes(changed)


def _attribute(graph: onnx.GraphProto, rng: random.Random) -> None:
    attributes = [a for node in graph.node for a in node.attribute]
    if not attributes:
        return
    chosen = rng.choice(attributes)
    if chosen.ints:
        chosen.ints[rng.randrange(len(chosen.ints))] = rng.choice(NUMBERS)
    elif rng.random() < 0.5:
        chosen.i = rng.choice(NUMBERS)
    else:
        chosen.name = rng.choice([a.name for a in attributes])


def _operator(graph: onnx.GraphProto, rng: random.Random) -> None:
    node = rng.choice(graph.node)
    node.op_type = rng.choice([n.op_type for n in graph.node] + ["Shape", "NonZero", "Loop", "Foo", "Identity", "Det"])
    if rng.random() < 0.2:
        node.domain = "my.domain"


def _wire(graph: onnx.GraphProto, rng: random.Random) -> None:
    node = rng.choice([n for n in graph.node if n.input])
    names = [name for n in graph.node for name in [*n.input, *n.output]] + ["", "nothing"]
    node.input[rng.randrange(len(node.input))] = rng.choice(names)


def _output(graph: onnx.GraphProto, rng: random.Random) -> None:
    rng.choice(graph.node).output[0] = rng.choice([name for n in graph.node for name in n.output] + ["", "made"])


def _drop(graph: onnx.GraphProto, rng: random.Random) -> None:
    del graph.node[rng.randrange(len(graph.node))]


def _move(graph: onnx.GraphProto, rng: random.Random) -> None:
    node = graph.node.pop(rng.randrange(len(graph.node)))
    graph.node.insert(rng.randrange(len(graph.node) + 1), node)


def _dims(graph: onnx.GraphProto, rng: random.Random) -> None:
    tensor = rng.choice([t for t in graph.initializer if t.dims])
    tensor.dims[rng.randrange(len(tensor.dims))] = rng.choice(NUMBERS)


def _values(graph: onnx.GraphProto, rng: random.Random) -> None:
    tensor = rng.choice(graph.initializer)
    if tensor.data_type == TensorProto.INT64 and tensor.raw_data:
        values = bytearray(tensor.raw_data)
        at = 8 * rng.randrange(len(values) // 8)
        values[at : at + 8] = rng.choice(NUMBERS).to_bytes(8, "little", signed=True)
        tensor.raw_data = bytes(values)
    else:
        tensor.data_type = rng.randrange(25)


def _input(graph: onnx.GraphProto, rng: random.Random) -> None:
    shape = graph.input[0].type.tensor_type.shape
    if rng.random() < 0.5 and shape.dim:
        rng.choice(shape.dim).dim_value = rng.choice(NUMBERS)
    else:
        graph.input[0].type.tensor_type.elem_type = rng.randrange(25)


FIELDS = (_attribute, _operator, _wire, _output, _drop, _move, _dims, _values, _input)
