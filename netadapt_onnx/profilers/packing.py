"""Packs bytes into JSON (zlib and base64), and unpacks them within bounds, since others may have written them."""

from __future__ import annotations

import base64
import binascii
import zlib

import onnx

from netadapt_onnx.graph.external_data import forget_location, tensors

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
