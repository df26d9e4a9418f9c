"""Recurrent layers of bytes as layers of floats: what a step makes of a rounding error does not enter the proof.

DynamicQuantizeLSTM quantises its last output in every step. On the boundary of two levels rounding alone changes it by
a whole one, which the following steps amplify, and no tensor outside shows it. As an LSTM over what its bytes stand for
it computes the same but for those levels, from the same weights, scales, zero points, bias and states.
"""

from __future__ import annotations

import onnx
from onnx import TensorProto, helper

from netadapt_onnx.graph.nodes import subgraphs_of
from netadapt_onnx.graph.weightless import without_weights

RECURRENT = "DynamicQuantizeLSTM"
# Inputs of weights, each with those of its scales and zero points; those before `SCALES` are LSTM's own.
WEIGHTS = {1: (8, 9), 2: (10, 11)}
SCALES = 8


def has_quantised_recurrence(graph: onnx.GraphProto) -> bool:
    """Whether a graph, or a subgraph in it, has a recurrent layer of bytes."""
    return any(n.op_type == RECURRENT or any(map(has_quantised_recurrence, subgraphs_of(n))) for n in graph.node)


def with_float_recurrence(proto: onnx.ModelProto) -> onnx.ModelProto:
    """A copy in which every DynamicQuantizeLSTM is an LSTM whose weights are computed from the bytes."""
    copy = without_weights(proto)
    copy.graph.initializer.extend(proto.graph.initializer)
    _replace(copy.graph)
    return copy


def _replace(graph: onnx.GraphProto) -> None:
    nodes: list[onnx.NodeProto] = []
    for node in graph.node:
        for subgraph in subgraphs_of(node):
            _replace(subgraph)
        nodes += _as_floats(node) if node.op_type == RECURRENT else [node]
    del graph.node[:]
    graph.node.extend(nodes)


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
