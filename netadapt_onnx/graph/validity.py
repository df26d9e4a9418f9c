"""Whether a file can be an ONNX model at all: checked once, after parsing, so that nothing behind it need ask.

One walk over the protobuf's own descriptors meets every message at any depth: subgraphs, functions, attributes, sparse
tensors, and whatever fields ONNX adds. Texts must be text, types known, tensors hold what their shapes say; nodes must
be what ONNX's own checker and the operator's schema allow. Nothing here reads the values of a weight.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from functools import cache
from math import prod
from typing import Any

import onnx
from onnx import NodeProto, TensorProto

from netadapt_onnx.errors import NetadaptError, one_line
from netadapt_onnx.graph.nodes import STANDARD, domain_of
from netadapt_onnx.graph.shapes import element_bits, type_name
from netadapt_onnx.graph.weightless import copy_field

# What an axis of a tensor can have at most: sizes beyond it overflow in every runtime.
LARGEST_AXIS = 2**31 - 1
# Opset and IR versions beyond this are no versions; the checker takes 32-bit integers.
LARGEST_VERSION = 10_000
# Texts that only describe: bytes that are not UTF-8 are replaced there. Everywhere else text is a name.
DESCRIPTIVE = {"doc_string", "producer_name", "producer_version"}
# Where values are if they are no raw data; in which of them those of a type are, `onnx.helper` knows.
_TYPED = ("float_data", "int32_data", "string_data", "int64_data", "double_data", "uint64_data")
_KNOWN_TYPES = set(TensorProto.DataType.values()) - {TensorProto.UNDEFINED}


def require_valid(proto: onnx.ModelProto) -> None:
    """Raise NetadaptError for what neither ONNX's checker nor a runtime takes.

    Bytes that are not UTF-8 are replaced in texts that only describe.
    """
    _check_versions(proto)
    refuse_twice("two inputs", (value.name for value in proto.graph.input))
    refuse_twice("two initializers", (tensor.name for tensor in proto.graph.initializer))
    for value in proto.graph.input:
        if not value.name:
            raise _invalid("an input has no name")
        if value.type.HasField("tensor_type") and (code := value.type.tensor_type.elem_type) not in _KNOWN_TYPES:
            raise _invalid(f"input '{value.name}' has the unknown type {code}")
    _walk(proto, _Context(proto))


def require_valid_nodes(proto: onnx.ModelProto) -> None:
    """The same for nodes alone: those that came out of functions, say, whose attributes have their values by now."""
    context = _Context(proto)
    for node in proto.graph.node:
        _walk(node, context)


class _Context:
    """What nodes are checked against: the opsets of the graph, or of the function, that they stand in."""

    def __init__(self, proto: onnx.ModelProto, around: _Context | None = None, function: Any = None) -> None:
        """`around`: the context of the model, for a function of it."""
        self._proto = proto
        self.in_function = function is not None
        self.versions = {domain_of(o): o.version for o in (function or proto).opset_import}
        self.checker = onnx.checker.C.CheckerContext()
        self.checker.ir_version = min(proto.ir_version, onnx.IR_VERSION)
        self.checker.opset_imports = self.versions
        self._local: set[tuple[str, str]] = around._local if around else {(f.domain, f.name) for f in proto.functions}

    def of(self, function: onnx.FunctionProto) -> _Context:
        """That of the nodes in a function's body."""
        for entry in function.opset_import:
            _check_version(entry)
        return _Context(self._proto, self, function)

    def knows(self, node: NodeProto) -> bool:
        """Whether ONNX has a schema to hold a node against."""
        domain = domain_of(node)
        if (node.domain, node.op_type) in self._local or domain not in self.versions:
            return False
        try:
            return not onnx.defs.get_schema(node.op_type, self.versions[domain], domain).deprecated
        except onnx.defs.SchemaError:
            return False


def _walk(message: Any, context: _Context) -> None:
    """Check a message and everything in it."""
    kind = message.DESCRIPTOR
    if kind.full_name == "onnx.FunctionProto":
        context = context.of(message)
    texts, messages = _fields_to_visit(kind)
    for field, is_repeated in texts:
        _check_text(message, field, is_repeated)
    if kind.full_name == "onnx.NodeProto":
        _check_node(message, context)
    elif kind.full_name in _CHECKS:
        _CHECKS[kind.full_name](message)
    for field, is_repeated in messages:
        if is_repeated:
            for part in getattr(message, field):
                _walk(part, context)
        elif message.HasField(field):
            _walk(getattr(message, field), context)


Fields = tuple[tuple[str, bool], ...]


@cache
def _fields_to_visit(kind: Any) -> tuple[Fields, Fields]:
    """The fields of a message that hold texts, and those that hold messages: their names and whether repeated."""
    texts = [field for field in kind.fields if field.type == field.TYPE_STRING]
    messages = [field for field in kind.fields if field.type == field.TYPE_MESSAGE]
    return tuple((f.name, f.is_repeated) for f in texts), tuple((f.name, f.is_repeated) for f in messages)


def _check_text(message: Any, field: str, is_repeated: bool) -> None:
    """Protobuf gives text that is no UTF-8 as bytes, and refuses it where it is written."""
    texts = getattr(message, field)
    for text in texts if is_repeated else (texts,):
        if isinstance(text, str):
            continue
        if field not in DESCRIPTIVE:
            raise _invalid(f"a {field.replace('_', ' ')} is no text: {text!r}")
        setattr(message, field, text.decode(errors="replace"))


# -- tensors and types ------------------------------------------------------------------------------------------------


def check_declared(tensor: TensorProto) -> None:
    """Raise NetadaptError if a tensor's type is unknown or its shape impossible."""
    if tensor.data_type not in _KNOWN_TYPES:
        raise _invalid(f"tensor '{tensor.name}' has the unknown type {tensor.data_type}")
    if min(tensor.dims, default=0) < 0:
        raise _invalid(f"tensor '{tensor.name}' has a negative axis: {tuple(tensor.dims)}")


def check_tensor(tensor: TensorProto) -> None:
    """Raise NetadaptError if a tensor's type is unknown, its shape impossible, or its data not what they should be."""
    check_declared(tensor)
    name, shape = f"tensor '{tensor.name}'", tuple(tensor.dims)
    if tensor.data_location == TensorProto.EXTERNAL:
        return  # what is in other files is checked where it is read
    if tensor.HasField("segment"):
        raise _invalid(f"{name} is a segment, which no runtime reads")
    right = onnx.helper.tensor_dtype_to_field(tensor.data_type)
    wrong = next((field for field in _TYPED if field != right and len(getattr(tensor, field))), None)
    if wrong is not None:
        raise _invalid(f"{name} of {type_name(tensor.data_type)} keeps values in {wrong}")
    values, elements = len(getattr(tensor, right)), prod(shape)
    if tensor.HasField("raw_data") and tensor.data_type != TensorProto.STRING:
        _check_bytes(tensor, name, values)
    elif tensor.HasField("raw_data") and len(tensor.raw_data):
        raise _invalid(f"{name} of strings has raw data")
    elif values != (expected := _values_stored(tensor.data_type, elements)):
        raise _invalid(f"{name} holds {values} values, its shape {shape} takes {expected}")


def _check_bytes(tensor: TensorProto, name: str, values: int) -> None:
    """Raw data of exactly the bytes that the shape takes, and no values beside them."""
    if values:
        raise _invalid(f"{name} holds its values twice")
    held, needed = len(tensor.raw_data), bytes_needed(tensor)
    if held != needed:
        less = "is truncated: it" if held < needed else ""
        raise _invalid(f"{name} {less} holds {held} bytes, its shape {tuple(tensor.dims)} takes {needed}")


def bytes_needed(tensor: TensorProto) -> int:
    """What a tensor's values take as raw data; 0 for strings."""
    if tensor.data_type == TensorProto.STRING:
        return 0
    bits: int = prod(tensor.dims) * element_bits(tensor.data_type)
    return -(-bits // 8)


def _values_stored(code: int, elements: int) -> int:
    """How many entries of its field a tensor's elements take: complex ones two each, those of 4 and 2 bits share."""
    if code in (TensorProto.COMPLEX64, TensorProto.COMPLEX128):
        return 2 * elements
    if code == TensorProto.STRING:
        return elements
    return -(-elements * element_bits(code) // 8) if element_bits(code) in (2, 4) else elements


def _check_sparse(sparse: onnx.SparseTensorProto) -> None:
    """Values (n,) and int64 indices (n,) or (n, rank) within the shape."""
    name = f"sparse tensor '{sparse.values.name}'"
    shape, counted, indices = tuple(sparse.dims), tuple(sparse.values.dims), tuple(sparse.indices.dims)
    if not shape or any(axis <= 0 for axis in shape):
        raise _invalid(f"{name} has the impossible shape {shape}")
    if len(counted) != 1 or indices not in (counted, (*counted, len(shape))):
        raise _invalid(f"{name} has values {counted} and indices {indices}, which do not fit its shape {shape}")
    if counted[0] and sparse.indices.data_type != TensorProto.INT64:
        raise _invalid(f"{name} has indices of {type_name(sparse.indices.data_type)}, not int64")


def _check_type(kind: Any, name: str = "a tensor") -> None:
    if kind.elem_type not in TensorProto.DataType.values():
        raise _invalid(f"{name} is declared with the unknown type {kind.elem_type}")


def _check_value(value: onnx.ValueInfoProto) -> None:
    _check_type(value.type.tensor_type, f"'{value.name}'")
    for axis, dim in enumerate(value.type.tensor_type.shape.dim):
        if dim.dim_value > LARGEST_AXIS:
            raise _invalid(f"axis {axis} of '{value.name}' is declared with {dim.dim_value} elements")


# -- nodes ------------------------------------------------------------------------------------------------------------


_EMPTY_TENSOR = TensorProto(name="t", data_type=TensorProto.FLOAT, dims=[0])
_EMPTY_INDICES = TensorProto(name="i", data_type=TensorProto.INT64, dims=[0])
_EMPTY_SPARSE = onnx.SparseTensorProto(values=_EMPTY_TENSOR, indices=_EMPTY_INDICES, dims=[1])
_EMPTY_GRAPH = onnx.GraphProto(name="g")
# What stands in an attribute's fields for contents that are checked for themselves.
_STAND_INS: dict[str, Any] = {
    "t": _EMPTY_TENSOR,
    "tensors": _EMPTY_TENSOR,
    "g": _EMPTY_GRAPH,
    "graphs": _EMPTY_GRAPH,
    "sparse_tensor": _EMPTY_SPARSE,
    "sparse_tensors": _EMPTY_SPARSE,
}


def _check_node(node: NodeProto, context: _Context) -> None:
    """What ONNX's checker says of a node alone: its attributes and how many inputs and outputs it has."""
    if not node.op_type:
        raise _invalid("it has no operator", node)
    if node.domain in STANDARD and "" not in context.versions:
        raise _invalid("the file does not say which opset of ai.onnx it uses", node)
    reference = next((a.name for a in node.attribute if a.ref_attr_name), None)
    if reference is not None:
        if context.in_function:  # its caller gives the value when the function is inlined
            return
        raise _invalid(f"its attribute '{reference}' stands for one of a function, and the node is in none", node)
    try:
        if context.knows(node):
            onnx.checker.check_node(_without_contents(node), context.checker)
            return
        for attribute in _without_contents(node).attribute:
            onnx.checker.check_attribute(attribute, context.checker)
    except (onnx.checker.ValidationError, RuntimeError, TypeError, ValueError) as error:
        raise _invalid(_reason(error), node) from error


def _without_contents(node: NodeProto) -> NodeProto:
    """A node whose tensors and subgraphs are empty: they are checked for themselves, and weights are not copied."""
    if not any(field.name in _STAND_INS for attribute in node.attribute for field, _ in attribute.ListFields()):
        return node
    bare = NodeProto(name=node.name, op_type=node.op_type, domain=node.domain, input=node.input, output=node.output)
    for attribute in node.attribute:
        copy = bare.attribute.add()
        for field, value in attribute.ListFields():
            stand_in = _STAND_INS.get(field.name)
            if stand_in is not None:
                value = [stand_in] * len(value) if field.is_repeated else stand_in
            copy_field(copy, field, value)
    return bare


def _reason(error: Exception) -> str:
    """The checker's first sentence: it goes on with where in the protobuf it was, which says nothing more."""
    return one_line(error).partition(" ==> ")[0].removeprefix("Bad node spec for node. ")


# What is checked of messages other than nodes, whatever they stand in.
_CHECKS: dict[str, Callable[[Any], None]] = {
    "onnx.TensorProto": check_tensor,
    "onnx.SparseTensorProto": _check_sparse,
    "onnx.TypeProto.Tensor": _check_type,
    "onnx.TypeProto.SparseTensor": _check_type,
    "onnx.ValueInfoProto": _check_value,
}

# -- the model --------------------------------------------------------------------------------------------------------


def _check_versions(proto: onnx.ModelProto) -> None:
    if not 0 < proto.ir_version <= LARGEST_VERSION:
        raise _invalid(f"{proto.ir_version} is no version of ONNX's file format")
    for entry in proto.opset_import:
        _check_version(entry)
    refuse_twice("two opset imports", map(domain_of, proto.opset_import))


def _check_version(entry: onnx.OperatorSetIdProto) -> None:
    if not 0 < entry.version <= LARGEST_VERSION:
        raise _invalid(f"{entry.version} is no version of the operators of {entry.domain or 'ai.onnx'}")


def refuse_twice(what: str, names: Iterable[str]) -> None:
    """Raise NetadaptError if a name is there more than once; `what` are two that have it."""
    twice = next((name for name, count in Counter(names).items() if count > 1), None)
    if twice is not None:
        raise _invalid(f"{what} share the name '{twice}'")


def _invalid(message: str, node: NodeProto | None = None) -> NetadaptError:
    if node is None:
        return NetadaptError(message, code="not-onnx")
    name = next(filter(None, (node.name, *node.output, node.op_type)), "")
    return NetadaptError(f"{node.op_type}: {message}", node=name, code="not-onnx")
