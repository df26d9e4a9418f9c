"""What an ONNX file says of itself: its inputs and outputs, its opsets, and the program that wrote it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import onnx

from netadapt_onnx.graph.shapes import format_shape, type_name

Dimension = int | str | None


@dataclass(frozen=True)
class TensorDescription:
    """An input or output as the file declares it.

    Attributes:
        name: Its name.
        type: Its element type (`float`, `int64`), or its kind where it is no tensor (`sequence_type`).
        shape: Its axes: a length, the name of a dynamic axis, or None of one without a name; None for no shape at all.
    """

    name: str
    type: str
    shape: tuple[Dimension, ...] | None

    @property
    def text(self) -> str:
        """Type and shape.

        >>> TensorDescription("image", "float", ("N", 3, None)).text
        'float Nx3x?'
        """
        if self.shape is None:
            return self.type
        return f"{self.type} {format_shape(self.shape) if self.shape else 'scalar'}"


@dataclass(frozen=True)
class FileDescription:
    """A file as its exporter wrote it, before anything is normalised.

    Attributes:
        inputs: What the model takes, without initializers that may be overridden.
        outputs: What it returns.
        opset: The version of each domain of operators; ONNX's own is `ai.onnx`.
        ir_version: The version of the file format.
        producer: The program that wrote it, with its version; empty where the file does not say.
    """

    inputs: tuple[TensorDescription, ...]
    outputs: tuple[TensorDescription, ...]
    opset: Mapping[str, int]
    ir_version: int
    producer: str


def describe(proto: onnx.ModelProto) -> FileDescription:
    """Read what a file says of itself."""
    initialised = {tensor.name for tensor in proto.graph.initializer}
    return FileDescription(
        _tensors(value for value in proto.graph.input if value.name not in initialised),
        _tensors(proto.graph.output),
        {entry.domain or "ai.onnx": entry.version for entry in proto.opset_import},
        proto.ir_version,
        f"{proto.producer_name} {proto.producer_version}".strip() if proto.producer_name else "",
    )


def _tensors(values: Iterable[onnx.ValueInfoProto]) -> tuple[TensorDescription, ...]:
    return tuple(_tensor(value) for value in values)


def _tensor(value: onnx.ValueInfoProto) -> TensorDescription:
    if not value.type.HasField("tensor_type"):
        return TensorDescription(value.name, value.type.WhichOneof("value") or "untyped", None)
    tensor = value.type.tensor_type
    shape = tuple(_dimension(d) for d in tensor.shape.dim) if tensor.HasField("shape") else None
    return TensorDescription(value.name, type_name(tensor.elem_type), shape)


def _dimension(dimension: onnx.TensorShapeProto.Dimension) -> Dimension:
    return dimension.dim_value if dimension.HasField("dim_value") else dimension.dim_param or None
