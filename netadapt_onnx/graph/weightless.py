"""Models without their weights: a protobuf of gigabytes is copied, measured and opened without serialising it.

Every access to `raw_data`, every `ByteSize` and `CopyFrom` of protobuf's Python copies the bytes.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from math import prod
from typing import Any, BinaryIO

import numpy as np
import onnx
from onnx import numpy_helper

from netadapt_onnx.graph.nodes import captured, replace_all
from netadapt_onnx.graph.shapes import dtype_of, element_bits

# Field numbers of onnx.proto: ModelProto.graph and GraphProto.initializer.
_GRAPH, _INITIALIZER = 7, 5
# Below this many bytes an initializer may be shape arithmetic and is not worth treating apart.
WEIGHT_BYTES = 1 << 10
WITHOUT_BYTES = (onnx.TensorProto.STRING, onnx.TensorProto.UNDEFINED)


def without_weights(proto: onnx.ModelProto) -> onnx.ModelProto:
    """A copy without initializers."""
    copy = onnx.ModelProto()
    for field, value in proto.ListFields():
        if field.name == "graph":
            for inner, content in value.ListFields():
                if inner.name != "initializer":
                    copy_field(copy.graph, inner, content)
        else:
            copy_field(copy, field, value)
    return copy


def weights_as_inputs(proto: onnx.ModelProto) -> onnx.ModelProto:
    """A copy in which weights, and tensors that are not loaded, are inputs: enough to check whether it is valid."""
    copy = without_weights(proto)
    declared = {value.name for value in proto.graph.input}
    for tensor in proto.graph.initializer:
        outside = tensor.data_location == onnx.TensorProto.EXTERNAL
        if not outside and (raw_bytes(tensor) or 0) <= WEIGHT_BYTES:
            copy.graph.initializer.append(tensor)
        elif tensor.name not in declared:  # before IR 4 every initializer was one
            value = onnx.helper.make_tensor_value_info(tensor.name, tensor.data_type, list(tensor.dims))
            copy.graph.input.append(value)
    return copy


def light_copy(
    proto: onnx.ModelProto, outputs: Sequence[str] | None = None
) -> tuple[onnx.ModelProto, dict[str, np.ndarray]]:
    """A copy whose large initializers are external data of no file, and their values by name.

    `outputs` become its outputs. Initializers that nothing reads are left out, and those that are outputs stay inside:
    onnxruntime drops or copies both before it looks for their values, and then does not find them.
    """
    copy = without_weights(proto)
    if outputs is not None:
        replace_all(copy.graph.output, [onnx.ValueInfoProto(name=name) for name in outputs])
    returned = {value.name for value in copy.graph.output}
    used = returned.union(*((*node.input, *captured(node)) for node in copy.graph.node))
    weights: dict[str, np.ndarray] = {}
    for tensor in proto.graph.initializer:
        size = raw_bytes(tensor)
        if tensor.name not in used:
            continue
        inside = size is None or size <= WEIGHT_BYTES or dtype_of(tensor.data_type).kind not in "iuf"
        if inside or tensor.name in returned:
            copy.graph.initializer.add().CopyFrom(tensor)
            continue
        weights[tensor.name] = numpy_helper.to_array(tensor)
        copy.graph.initializer.append(stand_in(tensor))
    return copy, weights


def with_stand_ins(
    proto: onnx.ModelProto, names: Collection[str]
) -> tuple[onnx.ModelProto, dict[str, onnx.TensorProto]]:
    """A copy in which large initializers of these names are external data of no file, and the initializers by name."""
    copy = without_weights(proto)
    weights: dict[str, onnx.TensorProto] = {}
    for tensor in proto.graph.initializer:
        if tensor.name in names and (raw_bytes(tensor) or 0) > WEIGHT_BYTES:
            weights[tensor.name] = tensor
            copy.graph.initializer.append(stand_in(tensor))
        else:
            copy.graph.initializer.append(tensor)
    return copy, weights


def stand_in(tensor: onnx.TensorProto) -> onnx.TensorProto:
    """A tensor like the given one, its data external and of no file."""
    placeholder = _without_data(tensor)
    placeholder.data_location = onnx.TensorProto.EXTERNAL
    placeholder.external_data.add(key="location", value="weights")
    return placeholder


def raw_bytes(tensor: onnx.TensorProto) -> int | None:
    """How many bytes of raw data a tensor has by its shape and type; None if its values are kept otherwise."""
    if not tensor.HasField("raw_data") or tensor.data_location == onnx.TensorProto.EXTERNAL:
        return None
    if tensor.data_type in WITHOUT_BYTES or element_bits(tensor.data_type) % 8:  # several elements share a byte
        return None
    elements: int = prod(tensor.dims)
    return elements * element_bits(tensor.data_type) // 8


def file_bytes(proto: onnx.ModelProto, elsewhere: Mapping[str, onnx.TensorProto] | None = None) -> int:
    """The length of the serialised model; `elsewhere` are the weights that have stand-ins in it, by name."""
    tensors = [(elsewhere or {}).get(one.name, one) for one in proto.graph.initializer]
    bare = without_weights(proto)
    graph = len(bare.graph.SerializeToString())
    bare.ClearField("graph")
    graph += sum(_field_bytes(_tensor_bytes(tensor)) for tensor in tensors)
    return len(bare.SerializeToString()) + _field_bytes(graph)


def write(proto: onnx.ModelProto, stream: BinaryIO) -> None:
    """Write a model one initializer after the other, never holding all of it as bytes."""
    bare = without_weights(proto)
    graph = bare.graph.SerializeToString()
    bare.ClearField("graph")
    lengths = [len(tensor.SerializeToString()) for tensor in proto.graph.initializer]
    stream.write(bare.SerializeToString())
    stream.write(_head(_GRAPH, len(graph) + sum(map(_field_bytes, lengths))))
    stream.write(graph)
    for tensor, length in zip(proto.graph.initializer, lengths, strict=True):
        stream.write(_head(_INITIALIZER, length))
        stream.write(tensor.SerializeToString())


def _head(number: int, length: int) -> bytes:
    """Tag and length of a length-delimited field."""
    head = bytearray([number << 3 | 2])
    while length > 0x7F:
        head.append(length & 0x7F | 0x80)
        length >>= 7
    head.append(length)
    return bytes(head)


def _tensor_bytes(tensor: onnx.TensorProto) -> int:
    size = raw_bytes(tensor)
    if size is None:
        return int(tensor.ByteSize())
    bare = _without_data(tensor)
    if tensor.HasField("data_location"):  # one that was external says so, though it no longer is
        bare.data_location = tensor.data_location
    return len(bare.SerializeToString()) + _field_bytes(size)


def _field_bytes(length: int) -> int:
    """A field of `length` bytes: its tag (one byte for numbers up to 15), the length as a varint, the bytes."""
    return 1 + max(1, -(-length.bit_length() // 7)) + length


def _without_data(tensor: onnx.TensorProto) -> onnx.TensorProto:
    """A copy of a tensor without its raw data."""
    text = tensor.doc_string or None
    return onnx.TensorProto(name=tensor.name, data_type=tensor.data_type, dims=tensor.dims, doc_string=text)


def copy_field(message: Any, field: Any, value: Any) -> None:
    """Give a message a field's value, as another message's `ListFields` names it; repeated ones grow."""
    if field.is_repeated:
        getattr(message, field.name).extend(value)
    elif field.message_type is not None:
        getattr(message, field.name).CopyFrom(value)
    else:
        setattr(message, field.name, value)
