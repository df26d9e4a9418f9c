"""Shapes that a file leaves open: which they are, and the options to type that say them.

An option is proposed with sizes once the model's shapes have been evaluated at them; otherwise with a `?` for each size
that only the user knows.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import onnx

from netadapt_onnx.errors import NetadaptError
from netadapt_onnx.graph.inputs import declared_shape, sizes_of_symbols
from netadapt_onnx.graph.nodes import is_standard
from netadapt_onnx.graph.shapes import Shape, Shapes, format_shape
from netadapt_onnx.graph.usual_sizes import Dims, Readers, kind_of_axis, sizes_by_readers, trials

# The code of errors that only a shape is missing.
OPEN = "dynamic-axis"
FLOATS = (onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16, onnx.TensorProto.BFLOAT16, onnx.TensorProto.DOUBLE)
# How well a model's shapes fit together with these shapes of its inputs: not, somehow, well; None where nothing may be
# tried.
Fits = Callable[[Shapes], int] | None
NOT, SOMEHOW, WELL = range(3)


@dataclass(frozen=True)
class OpenTensor:
    """A tensor whose shape the user has to give: `dims` holds sizes and names of open axes ('' for one without)."""

    name: str
    dims: Dims

    @property
    def text(self) -> str:
        """Its name and its axes as the file has them."""
        named = any(isinstance(size, str) and size for size in self.dims)
        sizes = [str(size) or "?" for size in self.dims]
        return f"'{self.name}' [{', '.join(sizes)}]" if named else f"'{self.name}' {'x'.join(sizes)}"


def open_inputs(proto: onnx.ModelProto, settled: Shapes) -> list[OpenTensor]:
    """The inputs with an open axis beyond the first, or without a shape, whose shape is not `settled`."""
    tensors = [v for v in proto.graph.input if v.name not in settled and v.type.HasField("tensor_type")]
    shapes = [(value, declared_shape(value)) for value in tensors]
    opened = [value for value, shape in shapes if shape is None or None in shape[1:]]
    if not opened:
        return []
    symbols = {dim.dim_param for value in proto.graph.input for dim in value.type.tensor_type.shape.dim[1:]} - {""}
    batches = [value for value, shape in shapes if shape and shape[0] is None and None not in shape[1:]]
    # Whose only open axis, the first, is the length of another.
    opened += [value for value in batches if value.type.tensor_type.shape.dim[0].dim_param in symbols]
    readers = Readers.of(proto.graph)
    return [OpenTensor(value.name, _dims(readers, value)) for value in opened]


def _dims(readers: Readers, value: onnx.ValueInfoProto) -> Dims:
    """The axes of a tensor, with those that weights settle filled in."""
    declared = declared_shape(value)
    if declared is None:
        return shape_by_readers(readers, value.name)
    dims = value.type.tensor_type.shape.dim
    _, sizes = sizes_by_readers(readers, value.name)
    sizes = {axis % len(declared): size for axis, size in sizes.items() if -len(declared) <= axis < len(declared)}
    return tuple(
        size if size is not None else sizes.get(k, dims[k].dim_param) if k else dims[k].dim_param
        for k, size in enumerate(declared)
    )


def shape_by_readers(readers: Readers, name: str) -> Dims:
    """The axes of a tensor: those that the weights that read it determine, and its first."""
    rank, sizes = sizes_by_readers(readers, name)
    if rank is None:
        rank = 2 if sizes else 1
    sizes = {axis % rank: size for axis, size in sizes.items() if axis < rank}
    return tuple(sizes.get(k, "") for k in range(rank))


def declare_outputs(
    graph: onnx.GraphProto, shapes: Shapes, constants: Mapping[str, onnx.TensorProto]
) -> dict[str, Shape]:
    """Write shapes of what operators outside ONNX put out into a graph, in place; returns those of other tensors."""
    foreign = {name for node in graph.node if not is_standard(node) for name in node.output if name}
    declared = {value.name: value for value in graph.value_info}
    for name in sorted(foreign & shapes.keys()):
        operands = [operand for node in graph.node if name in node.input for operand in node.input]
        kinds = [constants[operand].data_type for operand in operands if operand in constants]
        kind = next((kind for kind in kinds if kind in FLOATS), onnx.TensorProto.FLOAT)
        value = declared[name] if name in declared else graph.value_info.add()
        code = value.type.tensor_type.elem_type or kind
        value.CopyFrom(onnx.helper.make_tensor_value_info(name, code, shapes[name]))
    return {name: shape for name, shape in shapes.items() if name not in foreign}


def refuse_other_shapes(requested: Shapes, specs: Mapping[str, tuple[Shape, object]]) -> None:
    """Raise NetadaptError for a shape that was given of a tensor that turns out to have another."""
    for name, shape in requested.items():
        if name in specs and specs[name][0] != shape:
            actual = format_shape(specs[name][0])
            raise NetadaptError(f"--shape {name}: its shape is {actual}", hint="leave it out", code="usage")


def shape_options(shapes: Mapping[str, Sequence[int | str]]) -> list[str]:
    """`--shape NAME=1x3x224x224` for each, as words of a command line."""
    texts = {name: format_shape(n if isinstance(n, int) else None for n in sizes) for name, sizes in shapes.items()}
    return [word for name, text in texts.items() for word in ("--shape", f"{name}={text}")]


def typed(words: Sequence[str]) -> str:
    """Words as they are typed into a shell; a `?`, which nobody types, needs no quotes."""
    return " ".join(
        word if shlex.quote(word.replace("?", "_")) == word.replace("?", "_") else shlex.quote(word) for word in words
    )


def proposal(
    opened: Sequence[OpenTensor], proto: onnx.ModelProto, requested: Shapes, batch_size: int, fits: Fits
) -> str:
    """What to type: all shapes, also the `requested` ones, with sizes that fit, or else a `?` for each open size."""
    settled = sizes_of_symbols(proto, requested)
    # Names of first axes of inputs that have more: where a state has the same behind its first, that is its batch.
    dims_of_inputs = [value.type.tensor_type.shape.dim for value in proto.graph.input]
    batches = {dims[0].dim_param for dims in dims_of_inputs if len(dims) > 1}
    kinds: dict[str, str] = {}
    for tensor in opened:
        for axis, symbols in enumerate(_parts(tensor)):
            for symbol in symbols:
                if isinstance(symbol, str) and symbol not in settled:
                    kind = kind_of_axis(tensor.dims, axis)
                    kinds.setdefault(symbol, "batch" if kind in ("state", "either") and symbol in batches else kind)
    best, proposed = NOT, dict(requested)
    for sizes in trials(list(kinds.values()), proto.graph, batch_size) if fits is not None else ():
        values = {**{symbol: sizes[kind] for symbol, kind in kinds.items()}, **settled}
        shapes = {**requested, **{tensor.name: _filled(tensor, values) for tensor in opened}}
        how = fits(shapes) if fits is not None else NOT
        if how > best:
            best, proposed = how, shapes
        if best == WELL:
            break
    give = f"give {'its shape' if len(opened) == 1 else 'their shapes'} with"
    if best > NOT:
        return f"{give} {typed(shape_options(proposed))}"
    blank: dict[str, Sequence[int | str]] = {
        tensor.name: [batch_size if k == 0 and not isinstance(n, int) else n for k, n in enumerate(tensor.dims)]
        for tensor in opened
    }
    return f"{give} {typed(shape_options({**requested, **blank}))}, a number for each ?"


def _parts(tensor: OpenTensor) -> list[list[int | str]]:
    """For each axis what its size is the sum of: numbers and symbols; an axis without a name is a symbol of its own."""
    parts: list[list[int | str]] = []
    for axis, size in enumerate(tensor.dims):
        words = re.split(r"\s*\+\s*", size) if isinstance(size, str) and re.fullmatch(r"[\w.+ ]+", size) else [size]
        parts.append([int(w) if isinstance(w, str) and w.isdigit() else w or f"{tensor.name}/{axis}" for w in words])
    return parts


def _filled(tensor: OpenTensor, values: Mapping[str, int]) -> Shape:
    return tuple(sum(n if isinstance(n, int) else values[n] for n in part) for part in _parts(tensor))


def refuse_open(proto: onnx.ModelProto, requested: Shapes, batch_size: int, fits: Fits) -> None:
    """Raise NetadaptError, with all shapes that are missing and what to type, if inputs have open axes."""
    opened = open_inputs(proto, requested)
    if not opened:
        return
    texts = ", ".join(tensor.text for tensor in opened)
    shapeless = {value.name for value in proto.graph.input if declared_shape(value) is None}
    if all(tensor.name in shapeless for tensor in opened):
        names = ", ".join(f"'{tensor.name}'" for tensor in opened)
        message = f"input {names} has no shape" if len(opened) == 1 else f"inputs {names} have no shape"
    elif len(opened) == 1:
        sizes = format_shape(n if isinstance(n, int) else None for n in opened[0].dims)
        message = f"input {texts} has a dynamic axis beyond the first: {sizes}"
    else:
        message = f"inputs {texts} have dynamic axes beyond the first"
    raise NetadaptError(message, hint=proposal(opened, proto, requested, batch_size, fits), code=OPEN)
