"""Nodes and tensors of an ONNX file as training sees them.

Neighbouring nodes that torch computes in one pass over memory are one: without that a ViT's step takes 3% longer."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import replace

import numpy as np
import onnx
import torch
import torch.nn.functional as F
from onnx import numpy_helper
from torch import Tensor

from netadapt_onnx.errors import NetadaptError
from netadapt_onnx.graph.nodes import node_name
from netadapt_onnx.training.ops.registry import DTYPES, Function, Node


def read_nodes(proto: onnx.ModelProto) -> list[Node]:
    """The nodes of a graph, with their attributes as Python values."""
    opsets = {entry.domain or "ai.onnx": entry.version for entry in proto.opset_import}
    nodes = []
    for node in proto.graph.node:
        attributes = {a.name: _attribute(a) for a in node.attribute}
        nodes.append(
            Node(
                op=node.op_type,
                name=node_name(node),
                opset=opsets.get(node.domain or "ai.onnx", 1),
                inputs=tuple(node.input),
                outputs=tuple(node.output),
                domain=node.domain,
                attributes=attributes,
            )
        )
    return nodes


def _attribute(attribute: onnx.AttributeProto) -> object:
    value = onnx.helper.get_attribute_value(attribute)
    if isinstance(value, bytes):
        return value.decode("utf-8", "replace")
    if isinstance(value, onnx.TensorProto):
        return read_tensor(value)
    if attribute.type == onnx.AttributeProto.STRINGS:
        return [v.decode("utf-8", "replace") for v in value]
    return list(value) if attribute.type in (onnx.AttributeProto.INTS, onnx.AttributeProto.FLOATS) else value


def read_tensor(tensor: onnx.TensorProto) -> Tensor:
    """The values of a tensor, float16 and bfloat16 as float32. Raises NetadaptError for types that do not train."""
    dtype = DTYPES.get(tensor.data_type)
    if dtype is None:
        kind = onnx.TensorProto.DataType.Name(tensor.data_type)
        raise NetadaptError(f"training does not support tensor '{tensor.name}' of type {kind}", code="unsupported")
    array = numpy_helper.to_array(tensor)
    if tensor.data_type in (onnx.TensorProto.FLOAT16, onnx.TensorProto.BFLOAT16):
        array = array.astype(np.float32)
    return torch.from_numpy(np.array(array)).to(dtype)


def fused(nodes: Sequence[Node], outputs: Collection[str]) -> tuple[list[Node], dict[str, Function]]:
    """Fuse each MatMul that only an Add reads with that Add, which then reads (a, b, addend).

    Args:
        nodes: A graph's nodes.
        outputs: Tensors that have to be computed.

    Returns:
        The nodes, and the functions of fused ones by output.
    """
    readers = Counter(name for node in nodes for name in node.inputs)
    products = {
        node.outputs[0]: node
        for node in nodes
        if node.op == "MatMul" and readers[node.outputs[0]] == 1 and node.outputs[0] not in outputs
    }
    sums: dict[str, Node] = {}
    absorbed: set[str] = set()
    for node in nodes:
        slot = next((i for i, name in enumerate(node.inputs) if name in products), None)
        if node.op == "Add" and "axis" not in node.attributes and slot is not None:
            product = products[node.inputs[slot]]
            absorbed.add(node.inputs[slot])
            inputs = (*product.inputs, node.inputs[1 - slot])
            sums[node.outputs[0]] = replace(node, inputs=inputs, constants={})
    kept = [sums.get(node.outputs[0], node) for node in nodes if node.outputs[0] not in absorbed]
    return kept, dict.fromkeys(sums, _linear)


def _linear(node: Node, a: Tensor, b: Tensor, addend: Tensor) -> Tensor:
    """Shapes: a (..., K), b (K, N), addend (N,); any others that MatMul and Add take are computed one by one."""
    if a.dim() > 1 and b.dim() == 2 and addend.shape == b.shape[1:]:
        return F.linear(a, b.t(), addend)
    return torch.matmul(a, b) + addend
