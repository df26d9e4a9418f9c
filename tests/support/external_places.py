"""Every place where ONNX lets a tensor be, and models with external data in one of them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto

import models

VALUES = np.arange(6, dtype=np.float32)
Place = tuple[Any, ...]
SECRET = b"token = ghp_1234567890abcdef"
CONFIG = ".git/config"


def places(message: Any = onnx.ModelProto.DESCRIPTOR, above: Place = ()) -> Iterator[Place]:
    """Every way through fields from a model to a tensor; no type of message more than twice on the way."""
    for field in message.fields:
        kind = field.message_type
        if kind is None:
            continue
        if kind is TensorProto.DESCRIPTOR:
            yield (*above, field)
        elif sum(passed.message_type is kind for passed in above) < 2 - (kind is onnx.GraphProto.DESCRIPTOR):
            yield from places(kind, (*above, field))


def spelled(place: Place) -> str:
    return ".".join(field.name for field in place)


PLACES = list(places())
WEIGHTS = "graph.initializer"


def put(message: Any, place: Place) -> Any:
    """A new tensor in a place of a message."""
    for field in place:
        inner = getattr(message, field.name)
        message = inner.add() if field.is_repeated else inner
    return message


def naming(place: Place, location: str, **entries: str) -> onnx.ModelProto:
    """A model of one convolution, with a tensor more whose data are said to be at `location`."""
    b = models.Builder()
    b.conv("x", 3, 4, name="conv")
    proto = b.model({"x": (1, 3, 8, 8)}, {"conv_out": (1, 4, 8, 8)})
    tensor = put(proto, place)
    tensor.name, tensor.data_type, tensor.data_location = "stray", TensorProto.FLOAT, TensorProto.EXTERNAL
    tensor.dims.extend(VALUES.shape)
    for key, value in {"location": location, **entries}.items():
        tensor.external_data.add(key=key, value=value)
    return proto
