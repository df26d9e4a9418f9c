"""What devices and files say, checked as it is read: numbers, text, and bytes that were packed into JSON.

Bytes are packed by zlib and base64, and unpacked within bounds, since others may have written them."""

from __future__ import annotations

import base64
import binascii
import zlib
from typing import Annotated, Any

import msgspec
import onnx

from netadapt_onnx.common.escape import escape
from netadapt_onnx.graph.external_data import forget_location, tensors

Number = Annotated[int, msgspec.Meta(ge=0, le=2**31)]
# Below 0 are the uncut model with which others are compared, and the original file.
ModelNumber = Annotated[int, msgspec.Meta(ge=-2, le=2**31)]
# Of parameters, multiplications, bytes.
Total = Annotated[int, msgspec.Meta(ge=0, le=2**62)]
Count = Annotated[int, msgspec.Meta(ge=1, le=2**31)]
# No run of a model takes an hour, and no measuring of one four months.
Ms = Annotated[float, msgspec.Meta(gt=0, le=3.6e6)]
Us = Annotated[float, msgspec.Meta(ge=0, le=3.6e9)]
Seconds = Annotated[float, msgspec.Meta(ge=0, le=1e7)]
Sessions = Annotated[list[Ms], msgspec.Meta(min_length=1, max_length=10_000)]
# Of an interval relative to its median.
Width = Annotated[float, msgspec.Meta(ge=0, le=1e9)]
Processors = Annotated[float, msgspec.Meta(ge=0, le=65536)]
Celsius = Annotated[float, msgspec.Meta(ge=-100, le=200)]
Text = Annotated[str, msgspec.Meta(max_length=2_000)]


class _RequiredFields(msgspec.Struct, frozen=True):
    """The fields that an environment has at least."""

    cpu: Text
    flags: list[Text]
    os: Text
    arch: Text
    onnxruntime: Text
    providers: list[Text]
    governor: Text | None


def check_environment(environment: object) -> dict[str, Any]:
    """Check a device's description of itself, and make its text printable.

    Raises ValueError naming what is missing or no text.
    """
    try:
        everything = msgspec.convert(environment, dict[str, Any])
        checked = msgspec.structs.asdict(msgspec.convert(everything, _RequiredFields))
    except msgspec.ValidationError as error:
        raise ValueError(f"environment: {error}") from error
    return {**everything, **{key: _escaped(value) for key, value in checked.items()}}


def _escaped(value: Any) -> Any:
    if isinstance(value, list):
        return [escape(text) for text in value]
    return escape(value) if isinstance(value, str) else value


# No graph without its weights, and no list of shapes, is larger; what pretends to be may fill the memory.
MOST_BYTES = 128 << 20


def pack(data: bytes) -> str:
    """Pack bytes as text."""
    return base64.b64encode(zlib.compress(data)).decode()


def unpack(text: str, most: int = MOST_BYTES) -> bytes:
    """Unpack such text. Raises ValueError if it is none, is cut off, or holds more than `most` bytes."""
    try:
        stream = zlib.decompressobj()
        data = stream.decompress(base64.b64decode(text, validate=True), most + 1)
    except (binascii.Error, zlib.error) as error:
        raise ValueError(f"is not compressed as it should be ({error})") from error
    if len(data) > most:
        raise ValueError(f"holds more than {most} bytes")
    if not stream.eof or stream.unused_data:
        raise ValueError("is cut off, or something follows it")
    return data


def unpack_graph(text: str) -> onnx.GraphProto:
    """Unpack a model's graph in which every node has a result, names are text, and no tensor names a file.

    Raises ValueError if it is none.
    """
    data, model = unpack(text), onnx.ModelProto()
    try:
        model.ParseFromString(data)
    except Exception as error:  # protobuf's DecodeError lives in a private module
        raise ValueError("holds no ONNX model") from error
    for number, node in enumerate(model.graph.node):
        names = [node.name, node.op_type, node.domain, *node.input, *node.output]
        if not node.output or not all(isinstance(name, str) for name in names):
            raise ValueError(f"holds a graph whose node {number} has no result, or a name that is no text")
    for tensor in tensors(model):
        forget_location(tensor)
    return model.graph
