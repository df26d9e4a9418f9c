"""Broken models: bytes and fields changed at random, and models that are well formed and make no sense.

A mutant is the same for the same seed. Fields are changed by protobuf's own descriptors, so that whatever ONNX can say
is said wrong, also by fields that it does not have yet.
"""

from __future__ import annotations

import functools
import random
from collections.abc import Iterator
from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper

from mutant_sources import sources

# Other names for an operator: each is read in a way of its own somewhere.
OTHERS = ("Shape", "Size", "NonZero", "Loop", "If", "Foo", "Identity", "Det", "Constant", "Upsample", "SequenceAt", "")
NUMBERS = (0, 1, -1, 2, 3, 7, 100, 2**31 - 1, -(2**31), 2**31, 2**40, 2**63 - 1, -(2**63))
FLOATS = (0.0, -1.0, 1e-38, 3e38, float("inf"), float("-inf"), float("nan"))
HOSTILE = (
    "",
    "nothing",
    "\x1b[2J\x07",
    "::error::",
    "##vso[task]",
    "\u202e",
    "a" * 5000,
    "../x",
    "a\nb",
    "\0",
    "my.ops",
)
NO_TEXT = b"\x8e\xff"


def mutant(seed: int) -> bytes:
    """A broken model."""
    return model_mutant(seed)[1]


def model_mutant(seed: int) -> tuple[onnx.ModelProto, bytes]:
    """A model, and what became of it: bytes, fields or what they mean changed, one to three times."""
    rng = random.Random(seed)
    source = rng.choice(sources())
    kind = rng.random()
    if kind < 0.2:
        return source, changed_bytes(source.SerializeToString(), rng)
    proto = onnx.ModelProto.FromString(source.SerializeToString())
    for _ in range(rng.choice((1, 1, 1, 2, 3))):
        if kind < 0.5:
            change_field(proto, rng)
        else:
            rng.choice(PLAUSIBLE)(proto, rng)
    return source, proto.SerializeToString()


# -- protobuf ---------------------------------------------------------------------------------------------------------


def change_field(proto: onnx.ModelProto, rng: random.Random) -> None:
    """Change one field of one message; kinds of messages alike, or a model's many nodes would have it all."""
    by_kind: dict[str, list[Any]] = {}
    for message in messages(proto):
        by_kind.setdefault(message.DESCRIPTOR.name, []).append(message)
    message = rng.choice(by_kind[rng.choice(sorted(by_kind))])
    present = [field for field, _ in message.ListFields()]
    field = rng.choice(present if rng.random() < 0.8 and present else message.DESCRIPTOR.fields)
    change = _change_repeated if field.is_repeated else _change_single
    change(message, field, by_kind, rng)


def messages(message: Any) -> Iterator[Any]:
    """A message and all messages within it."""
    yield message
    for field, value in message.ListFields():
        if field.message_type is not None:
            for inner in value if field.is_repeated else (value,):
                yield from messages(inner)


def _change_single(message: Any, field: Any, by_kind: dict[str, list[Any]], rng: random.Random) -> None:
    if message.HasField(field.name) and rng.random() < 0.2:
        message.ClearField(field.name)
    elif field.message_type is not None:
        alike = by_kind.get(field.message_type.name)
        getattr(message, field.name).SetInParent()
        if alike:
            copy = rng.choice(alike).SerializeToString()
            getattr(message, field.name).ParseFromString(copy)
    else:
        setattr(message, field.name, _value(field, getattr(message, field.name), by_kind, rng))


def _change_repeated(message: Any, field: Any, by_kind: dict[str, list[Any]], rng: random.Random) -> None:
    values = getattr(message, field.name)
    kind = rng.randrange(6)
    if values and kind == 0:
        del values[rng.randrange(len(values))]
    elif values and kind == 1:
        message.ClearField(field.name)
    elif len(values) > 1 and kind == 2:
        _swap(values, rng)
    elif field.message_type is not None:
        alike = by_kind.get(field.message_type.name)
        copy = values.add()
        if alike:
            copy.ParseFromString(rng.choice(alike).SerializeToString())
            _swap(values, rng)
    elif values and kind <= 4:
        place = rng.randrange(len(values))
        values[place] = _value(field, values[place], by_kind, rng)
    else:
        values.append(_value(field, values[0] if values else None, by_kind, rng))


def _swap(values: Any, rng: random.Random) -> None:
    order = list(values) if not hasattr(values, "add") else [type(v).FromString(v.SerializeToString()) for v in values]
    a, b = rng.randrange(len(order)), rng.randrange(len(order))
    order[a], order[b] = order[b], order[a]
    del values[:]
    values.extend(order)


def _value(field: Any, old: Any, by_kind: dict[str, list[Any]], rng: random.Random) -> Any:
    """Another value that the field can hold."""
    if field.type == field.TYPE_ENUM:
        return rng.choice(field.enum_type.values).number
    if field.type == field.TYPE_STRING:
        if field.name == "op_type" and rng.random() < 0.7:
            return rng.choice([*OTHERS, *_operators()])
        return rng.choice(HOSTILE if rng.random() < 0.3 else _names(by_kind))
    if field.type == field.TYPE_BYTES:
        data = bytes(old or b"")
        longer = rng.randbytes(rng.choice((1, 4, 8)))
        return rng.choice((b"", data[:-1], data + longer, changed_bytes(data or b"x", rng), longer, NO_TEXT))
    if field.cpp_type in (field.CPPTYPE_FLOAT, field.CPPTYPE_DOUBLE):
        return rng.choice(FLOATS)
    wide = field.cpp_type in (field.CPPTYPE_INT64, field.CPPTYPE_UINT64)
    lowest = 0 if field.cpp_type in (field.CPPTYPE_UINT64, field.CPPTYPE_UINT32) else -(2 ** (63 if wide else 31))
    return rng.choice(
        [n for n in (*NUMBERS, (old or 0) + 1, rng.randrange(30)) if lowest <= n < 2 ** (63 if wide else 31)]
    )


def _names(by_kind: dict[str, list[Any]]) -> list[str]:
    names = [name for node in by_kind.get("NodeProto", ()) for name in (*node.input, *node.output, node.name)]
    for kind in ("TensorProto", "ValueInfoProto", "AttributeProto"):
        names += [message.name for message in by_kind.get(kind, ())]
    return sorted(set(names)) or ["nothing"]


@functools.cache
def _operators() -> tuple[str, ...]:
    return tuple(sorted({schema.name for schema in onnx.defs.get_all_schemas() if schema.domain == ""}))


# -- models that are well formed, and make no sense --------------------------------------------------------------------


def _attribute(proto: onnx.ModelProto, rng: random.Random) -> None:
    attributes = [m for m in messages(proto) if isinstance(m, onnx.AttributeProto)]
    if not attributes:
        return
    chosen = rng.choice(attributes)
    if chosen.ints:
        chosen.ints[rng.randrange(len(chosen.ints))] = rng.choice(NUMBERS)
        if rng.random() < 0.2:
            chosen.ints.append(1)
    elif chosen.type == onnx.AttributeProto.INT:
        chosen.i = rng.choice(NUMBERS)
    elif chosen.type == onnx.AttributeProto.FLOAT:
        chosen.f = rng.choice(FLOATS)
    elif chosen.type == onnx.AttributeProto.STRING:
        strings = sorted({a.s for a in attributes if a.s} | {b"", NO_TEXT, b"SAME_UPPER", b"ij,jk->ik"})
        chosen.s = rng.choice(strings)


def _operator(proto: onnx.ModelProto, rng: random.Random) -> None:
    node = rng.choice(_nodes(proto))
    node.op_type = rng.choice([*OTHERS, *_operators()])
    if rng.random() < 0.7:  # which other operators do not know
        del node.attribute[:]
    if rng.random() < 0.1:
        node.domain = rng.choice(("my.ops", "com.microsoft", "ai.onnx"))


def _operands(proto: onnx.ModelProto, rng: random.Random) -> None:
    node = rng.choice(_nodes(proto))
    names = [name for other in _nodes(proto) for name in (*other.input, *other.output)] + [""]
    kind = rng.randrange(4)
    if kind == 0 or not node.input:
        node.input.append(rng.choice(names))
    elif kind == 1:
        del node.input[rng.randrange(len(node.input))]
    else:
        node.input[rng.randrange(len(node.input))] = rng.choice(names)


def _results(proto: onnx.ModelProto, rng: random.Random) -> None:
    a, b = rng.choice(_nodes(proto)), rng.choice(_nodes(proto))
    if a.output and b.output:
        a.output[0], b.output[0] = b.output[0], a.output[0]


def _order(proto: onnx.ModelProto, rng: random.Random) -> None:
    nodes = list(proto.graph.node)
    if rng.random() < 0.5:
        rng.shuffle(nodes)
    else:
        del nodes[rng.randrange(len(nodes))]
    copies = [onnx.NodeProto.FromString(node.SerializeToString()) for node in nodes]
    del proto.graph.node[:]
    proto.graph.node.extend(copies)


def _constant(proto: onnx.ModelProto, rng: random.Random) -> None:
    """Other values, another type or another shape, and the data that go with it."""
    tensors = [m for m in messages(proto) if isinstance(m, onnx.TensorProto) and m.data_type in (1, 6, 7)]
    if not tensors:
        return
    tensor = rng.choice([t for t in tensors if t.data_type != 1] or tensors if rng.random() < 0.5 else tensors)
    values, kind = numpy_helper.to_array(tensor).copy(), rng.randrange(4)
    if kind == 0 and values.dtype.kind == "i" and values.size:
        values.reshape(-1)[rng.randrange(values.size)] = rng.choice(NUMBERS) & (2**31 - 1) if rng.random() < 0.5 else -1
    elif kind == 1:
        values = values.astype(rng.choice(("float32", "float64", "float16", "int64", "int32", "uint8", "bool")))
    elif kind == 2:
        values = values.reshape(rng.choice([(-1,), values.shape[::-1], (1, *values.shape), (*values.shape, 1)]))
    else:
        shape = [rng.choice((0, 1, 2, 3, 5)) if rng.random() < 0.3 else n for n in values.shape]
        values = np.resize(values, shape) if values.size else values
    tensor.CopyFrom(numpy_helper.from_array(np.ascontiguousarray(values).reshape(values.shape), tensor.name))


def _input(proto: onnx.ModelProto, rng: random.Random) -> None:
    kind = rng.choice(proto.graph.input).type.tensor_type
    if rng.random() < 0.6 and kind.shape.dim:
        dim = rng.choice(kind.shape.dim)
        dim.Clear()
        if rng.random() < 0.7:
            dim.dim_value = rng.choice(NUMBERS)
    else:
        kind.elem_type = rng.choice(onnx.TensorProto.DataType.values())


def _output(proto: onnx.ModelProto, rng: random.Random) -> None:
    names = [name for node in proto.graph.node for name in (*node.input, *node.output) if name]
    if rng.random() < 0.5:
        proto.graph.output.add(name=rng.choice(names), type=helper.make_tensor_type_proto(1, None))
    else:
        rng.choice(proto.graph.output).name = rng.choice(names)


def _versions(proto: onnx.ModelProto, rng: random.Random) -> None:
    if rng.random() < 0.7:
        rng.choice(proto.opset_import).version = rng.randrange(1, 30)
    else:
        proto.ir_version = rng.randrange(1, 14)


def _nodes(proto: onnx.ModelProto) -> list[onnx.NodeProto]:
    nodes = [message for message in messages(proto) if isinstance(message, onnx.NodeProto)]
    return nodes or [proto.graph.node.add(op_type="Relu", input=["x"], output=["y"])]


PLAUSIBLE = (
    *(_attribute, _attribute, _operator, _operands, _operands, _results, _order, _constant, _constant, _constant),
    *(_input, _output, _versions),
)


# -- bytes ------------------------------------------------------------------------------------------------------------


def changed_bytes(data: bytes, rng: random.Random) -> bytes:
    """Bytes replaced, flipped, cut out, or doubled, at one to sixteen places."""
    changed = bytearray(data)
    for _ in range(rng.choice((1, 1, 2, 4, 16))):
        at, kind = rng.randrange(len(changed)), rng.randrange(6)
        if kind <= 1:
            changed[at] = rng.randrange(256)
        elif kind == 2:
            changed[at] ^= 1 << rng.randrange(8)
        elif kind == 3:
            del changed[at : at + rng.randrange(1, 8)]
        elif kind == 4 and rng.random() < 0.2:
            del changed[at:]
        else:
            start = rng.randrange(len(changed))
            changed[at:at] = changed[start : start + rng.randrange(1, 32)]
        if not changed:
            break
    return bytes(changed)
