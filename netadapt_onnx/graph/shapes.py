"""Shapes and element types of tensors: the types that hold them, and the bytes that tensors of them take."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from math import prod
from typing import Any

import numpy as np
import onnx

Shape = tuple[int, ...]
# By tensor.
Shapes = Mapping[str, Shape]
# Shape and element type.
Spec = tuple[Shape, np.dtype[Any]]
Specs = Mapping[str, Spec]

# Element types of which several share a byte, by their names in onnx.proto.
_PACKED = re.compile(r"U?INT([24])|FLOAT([46])E\dM\d")


def format_shape(shape: Iterable[int | str | None]) -> str:
    """A shape as messages and options write it, with a `?` for an open axis without a name.

    >>> format_shape((3, 224, None)), format_shape(())
    ('3x224x?', '()')
    """
    return "x".join("?" if size is None else str(size) for size in shape) or "()"


def spec_bytes(spec: Spec) -> int:
    """The bytes of an array of this shape and element type."""
    shape, dtype = spec
    return prod(shape) * dtype.itemsize


def dtype_of(data_type: int) -> np.dtype[Any]:
    """Numpy's type for an ONNX data type."""
    return np.dtype(onnx.helper.tensor_dtype_to_np_dtype(data_type))


def type_name(code: int) -> str:
    """An element type by its number in the format."""
    return (
        onnx.TensorProto.DataType.Name(code).lower() if code in onnx.TensorProto.DataType.values() else f"type {code}"
    )


def element_bits(data_type: int) -> int:
    """The bits that an element of an ONNX data type takes where it is stored."""
    packed = _PACKED.fullmatch(onnx.TensorProto.DataType.Name(data_type))
    if packed:
        return int(packed[1] or packed[2])
    return 8 * dtype_of(data_type).itemsize
