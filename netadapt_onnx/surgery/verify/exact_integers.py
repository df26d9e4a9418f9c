"""Quantised operators that compute exactly, whatever the processor: no kernel that saturates enters the proof.

On x86 without VNNI onnxruntime multiplies bytes of different signs in pairs and adds each pair in 16 bits, which
2 * 255 * 127 overflows. Bytes of the same type it multiplies exactly everywhere (`docs/decisions.md`). So weights take
the type of what they are multiplied with: they and their zero points move by 128, and every sum stays what it was.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import onnx
from onnx import TensorProto, helper

from netadapt_onnx.graph.nodes import all_nodes, replace_all, subgraphs_of
from netadapt_onnx.graph.weightless import without_weights


@dataclass(frozen=True)
class Product:
    """Which inputs of an operator are multiplied. `values` None: floats that it makes unsigned bytes itself."""

    values: int | None
    weights: int
    zero: int


PRODUCTS = {
    "QLinearConv": (Product(0, 3, 5),),
    "QLinearMatMul": (Product(0, 3, 5),),
    "QGemm": (Product(0, 3, 5),),
    "ConvInteger": (Product(0, 1, 3),),
    "MatMulInteger": (Product(0, 1, 3),),
    "MatMulIntegerToFloat": (Product(0, 1, 5),),
    "QAttention": (Product(0, 1, 7),),
    "DynamicQuantizeMatMul": (Product(None, 1, 3),),
    "DynamicQuantizeLSTM": (Product(None, 1, 9), Product(None, 2, 11)),
}
BYTES: dict[int, int] = {TensorProto.INT8: 128, TensorProto.UINT8: -128}
# The operators of `masked_reference` that pass their input on: it is the only one here that has tensors of its own.
PASSING = {"Where": 1, "Gather": 0, "Identity": 0}
Types = Mapping[str, int]


def with_exact_integers(proto: onnx.ModelProto, dtypes: Mapping[str, np.dtype]) -> onnx.ModelProto:
    """The same model without products of bytes of different signs; itself if it has none. `dtypes` by tensor."""
    if not any(node.op_type in PRODUCTS for node in all_nodes(proto.graph.node)):
        return proto
    copy = without_weights(proto)
    copy.graph.initializer.extend(proto.graph.initializer)
    _make_exact(copy.graph, {name: helper.np_dtype_to_tensor_dtype(dtype) for name, dtype in dtypes.items()})
    return copy


def _make_exact(graph: onnx.GraphProto, outer: Types) -> None:
    types = dict(outer) | {tensor.name: tensor.data_type for tensor in graph.initializer}
    nodes: list[onnx.NodeProto] = []
    for node in graph.node:
        if node.op_type in PASSING and types.get(node.input[PASSING[node.op_type]]):
            types.setdefault(node.output[0], types[node.input[PASSING[node.op_type]]])
        for product in PRODUCTS.get(node.op_type, ()):
            nodes += _same_type(node, product, types)
        for subgraph in subgraphs_of(node):
            _make_exact(subgraph, types)
        nodes.append(node)
    replace_all(graph.node, nodes)


def _same_type(node: onnx.NodeProto, product: Product, types: Types) -> list[onnx.NodeProto]:
    """Give the weights of a node the type of the values, in place; returns what has to run in front of it."""
    weights = types.get(node.input[product.weights], 0)
    values = TensorProto.UINT8 if product.values is None else types.get(node.input[product.values], 0)
    if weights == values or weights not in BYTES or values not in BYTES:
        return []
    moved, offset = f"{node.output[0]}/exact/{product.weights}", BYTES[weights]
    added = _moved(node.input[product.weights], moved, offset, values)
    node.input[product.weights] = moved
    node.input.extend([""] * (product.zero + 1 - len(node.input)))
    if node.input[product.zero]:
        added += _moved(node.input[product.zero], f"{moved}/zero", offset, values)
    else:
        zero = helper.make_tensor(f"{moved}/zero", values, [], [offset])
        added.append(helper.make_node("Constant", [], [zero.name], value=zero))
    node.input[product.zero] = f"{moved}/zero"
    return added


def _moved(name: str, result: str, offset: int, to: int) -> list[onnx.NodeProto]:
    """Nodes that compute bytes plus or minus 128 as bytes of the other type."""
    amount = helper.make_tensor(f"{result}/by", TensorProto.INT32, [], [offset])
    return [
        helper.make_node("Constant", [], [amount.name], value=amount),
        helper.make_node("Cast", [name], [f"{result}/wide"], to=TensorProto.INT32),
        helper.make_node("Add", [f"{result}/wide", amount.name], [f"{result}/sum"]),
        helper.make_node("Cast", [f"{result}/sum"], [result], to=to),
    ]
