"""The shapes that a file declares of inputs and other tensors, and those that its inputs get."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence

import onnx

from netadapt_onnx.errors import NetadaptError
from netadapt_onnx.graph.shapes import Shape, Shapes, Spec, Specs, dtype_of, format_shape


def declared_shape(value: onnx.ValueInfoProto) -> tuple[int | None, ...] | None:
    """The shape written in the file; None for a dynamic axis, None altogether when the file gives no shape."""
    if not value.type.tensor_type.HasField("shape"):
        return None
    return tuple(
        d.dim_value if d.HasField("dim_value") and d.dim_value >= 0 else None for d in value.type.tensor_type.shape.dim
    )


def declared_specs(values: Iterable[onnx.ValueInfoProto], symbols: Mapping[str, int], batch_size: int) -> Specs:
    """Shapes that the file declares, with the inputs' symbols put in; those that stay open are left out."""
    specs: dict[str, Spec] = {}
    for value in values:
        tensor = value.type.tensor_type
        if not tensor.elem_type or not tensor.HasField("shape"):
            continue
        sizes = [
            d.dim_value if d.HasField("dim_value") else symbols.get(d.dim_param, batch_size if i == 0 else -1)
            for i, d in enumerate(tensor.shape.dim)
        ]
        if min(sizes, default=0) >= 0:
            specs[value.name] = (tuple(sizes), dtype_of(tensor.elem_type))
    return specs


def dynamic_batch_inputs(proto: onnx.ModelProto) -> list[str]:
    """Names of the inputs whose first axis is dynamic."""
    shapes = {v.name: declared_shape(v) for v in proto.graph.input}
    return [name for name, shape in shapes.items() if shape and shape[0] is None]


def input_specs(proto: onnx.ModelProto, shapes: Shapes | None = None, batch_size: int = 1) -> dict[str, Spec]:
    """Concrete shape and element type of each graph input.

    Args:
        proto: the model; a dynamic first axis of its inputs becomes `batch_size`.
        shapes: those of inputs with other dynamic axes (`required_shapes.py` says beforehand which are missing).
        batch_size: the length of dynamic first axes.

    Raises:
        NetadaptError: for a dynamic axis without a size, and for shapes that fit no input.
    """
    remaining = dict(shapes or {})
    specs: dict[str, Spec] = {}
    for value in proto.graph.input:
        if not value.type.HasField("tensor_type"):
            raise NetadaptError(f"input '{value.name}' is not a tensor", code="unsupported")
        try:
            dtype = dtype_of(value.type.tensor_type.elem_type)
        except KeyError:
            number = value.type.tensor_type.elem_type
            raise NetadaptError(f"input '{value.name}' has the unknown type {number}", code="not-onnx") from None
        shape = _input_shape(value, remaining.pop(value.name, None), batch_size)
        if 0 in shape:
            raise NetadaptError(f"input '{value.name}' is empty: {format_shape(shape)}", code="unsupported")
        specs[value.name] = (shape, dtype)
    if remaining:
        hint = f"its inputs are {', '.join(specs)}"
        raise NetadaptError(f"--shape names no input of the model: {', '.join(remaining)}", hint=hint)
    return specs


def _input_shape(value: onnx.ValueInfoProto, shape: Shape | None, batch_size: int) -> Shape:
    """The shape that was asked for, if it fits what the file declares; else the declared one at this batch size."""
    declared = declared_shape(value)
    if shape is None:
        if declared is None or None in declared[1:]:
            raise NetadaptError(f"the shape of input '{value.name}' is open", code="dynamic-axis")
        return tuple(batch_size if size is None else size for size in declared)
    if declared is not None and not fits(shape, declared):
        message = f"--shape {value.name}={format_shape(shape)} does not fit the input {format_shape(declared)}"
        raise NetadaptError(message)
    return shape


def fits(shape: Shape, declared: Sequence[int | None]) -> bool:
    """Whether a tensor of this shape is what a file declares."""
    return len(shape) == len(declared) and all(d in (None, n) for d, n in zip(declared, shape, strict=True))


def longer(specs: Specs, axes: Mapping[str, Sequence[int]], by: int) -> Specs:
    """The input shapes with some axes of each that much longer."""
    return {
        name: (tuple(n + by if k in axes.get(name, ()) else n for k, n in enumerate(shape)), dtype)
        for name, (shape, dtype) in specs.items()
    }


def sizes_of_symbols(proto: onnx.ModelProto, shapes: Shapes) -> dict[str, int]:
    """The sizes of named axes that follow from the shapes of some inputs."""
    return {
        dim.dim_param: size
        for value in proto.graph.input
        for dim, size in zip(value.type.tensor_type.shape.dim, shapes.get(value.name, ()), strict=False)
        if dim.dim_param
    }


def parse_shape(text: str) -> tuple[str, tuple[int, ...]]:
    """Read one `--shape NAME=1x3x224x224`."""
    match = re.fullmatch(r"(.+)=(\d{1,18}(?:x\d{1,18})*)", text)
    if not match:
        raise NetadaptError(f"--shape {text}: expected NAME=1x3x224x224")
    return match[1], tuple(int(d) for d in match[2].split("x"))
