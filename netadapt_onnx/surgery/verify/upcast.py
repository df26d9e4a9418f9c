"""Models of half precision, and of recurrent layers of bytes, in float32, in which their cuts can be proven.

onnxruntime rounds after each operator, so that sums over fewer channels differ by a thousandth in float16, and its CPU
kernels lack bfloat16 altogether. The values of the weights stay what they are.

DynamicQuantizeLSTM quantises its last output in every step. On the boundary of two levels rounding alone changes it by
a whole one, which the following steps amplify, and no tensor outside shows it. As an LSTM over what its bytes stand for
it computes the same but for those levels, from the same weights, scales, zero points, bias and states."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from netadapt_onnx.graph.nodes import all_nodes, all_subgraphs, replace_all, subgraphs_of
from netadapt_onnx.graph.weightless import without_weights

NARROW = {TensorProto.FLOAT16, TensorProto.BFLOAT16}
# Attributes that name an element type.
TYPES = {"to", "dtype", "output_dtype"}


def upcast(proto: onnx.ModelProto) -> onnx.ModelProto:
    """The same model with float32 in place of float16 and bfloat16; itself if it has neither."""
    if NARROW.isdisjoint(_types(proto.graph)):
        return proto
    copy = without_weights(proto)
    copy.graph.initializer.extend(_tensor(tensor) for tensor in proto.graph.initializer)
    _upcast(copy.graph)
    return copy


def upcast_dtype(dtype: np.dtype) -> np.dtype:
    """float32 for the narrow floats, any other type as it is."""
    return np.dtype(np.float32) if dtype.name in ("float16", "bfloat16") else dtype


def _types(graph: onnx.GraphProto) -> Iterator[int]:
    """The element types that a graph and its subgraphs name."""
    for each in (graph, *all_subgraphs(graph.node)):
        yield from (tensor.data_type for tensor in each.initializer)
        yield from (value.type.tensor_type.elem_type for value in (*each.input, *each.output))
        for attribute in (attribute for node in each.node for attribute in node.attribute):
            yield attribute.i if attribute.name in TYPES else attribute.t.data_type


def _upcast(graph: onnx.GraphProto) -> None:
    """Have a graph and its subgraphs name float32, in place; initializers of the graph itself do already."""
    for subgraph in all_subgraphs(graph.node):
        for tensor in subgraph.initializer:
            tensor.CopyFrom(_tensor(tensor))
    for each in (graph, *all_subgraphs(graph.node)):
        for value in (*each.input, *each.output, *each.value_info):
            if value.type.tensor_type.elem_type in NARROW:
                value.type.tensor_type.elem_type = TensorProto.FLOAT
        for attribute in (attribute for node in each.node for attribute in node.attribute):
            if attribute.name in TYPES and attribute.i in NARROW:
                attribute.i = TensorProto.FLOAT
            if attribute.HasField("t"):
                attribute.t.CopyFrom(_tensor(attribute.t))


def _tensor(tensor: TensorProto) -> TensorProto:
    if tensor.data_type not in NARROW:
        return tensor
    return numpy_helper.from_array(numpy_helper.to_array(tensor).astype(np.float32), tensor.name)


RECURRENT = "DynamicQuantizeLSTM"
# Inputs of weights, each with those of its scales and zero points; those before `SCALES` are LSTM's own.
WEIGHTS = {1: (8, 9), 2: (10, 11)}
SCALES = 8


def has_quantised_recurrence(graph: onnx.GraphProto) -> bool:
    """Whether a graph, or a subgraph in it, has a recurrent layer of bytes."""
    return any(node.op_type == RECURRENT for node in all_nodes(graph.node))


def with_float_recurrence(proto: onnx.ModelProto) -> onnx.ModelProto:
    """A copy in which every DynamicQuantizeLSTM is an LSTM whose weights are computed from the bytes."""
    copy = without_weights(proto)
    copy.graph.initializer.extend(proto.graph.initializer)
    _replace(copy.graph)
    return copy


def _replace(graph: onnx.GraphProto) -> None:
    for node in graph.node:
        for subgraph in subgraphs_of(node):
            _replace(subgraph)
    replace_all(graph.node, [new for n in graph.node for new in (_as_floats(n) if n.op_type == RECURRENT else [n])])


def _as_floats(node: onnx.NodeProto) -> list[onnx.NodeProto]:
    """The nodes that compute the weights, and the LSTM."""
    nodes: list[onnx.NodeProto] = []
    inputs = list(node.input)[:SCALES]
    for slot, (scale, zero) in WEIGHTS.items():
        base = f"{next(filter(None, node.output))}/float/{slot}"
        nodes += _real(base, node.input[slot], node.input[scale], node.input[zero])
        inputs[slot] = base
    lstm = helper.make_node("LSTM", inputs, list(node.output), node.name)
    lstm.attribute.extend(node.attribute)
    return [*nodes, lstm]


def _real(result: str, values: str, scale: str, zero: str) -> list[onnx.NodeProto]:
    """(values - zero) * scale, transposed: (D, I, 4 * H) -> (D, 4 * H, I); by direction, or by its channels."""
    rows = helper.make_tensor(f"{result}/rows", TensorProto.INT64, [3], [0, 1, -1])
    return [
        helper.make_node("Constant", [], [rows.name], value=rows),
        helper.make_node("Cast", [values], [f"{result}/cast"], to=TensorProto.FLOAT),
        helper.make_node("Cast", [zero], [f"{result}/zero"], to=TensorProto.FLOAT),
        helper.make_node("Reshape", [f"{result}/zero", rows.name], [f"{result}/zeros"]),
        helper.make_node("Reshape", [scale, rows.name], [f"{result}/scales"]),
        helper.make_node("Sub", [f"{result}/cast", f"{result}/zeros"], [f"{result}/moved"]),
        helper.make_node("Mul", [f"{result}/moved", f"{result}/scales"], [f"{result}/scaled"]),
        helper.make_node("Transpose", [f"{result}/scaled"], [result], perm=[0, 2, 1]),
    ]
