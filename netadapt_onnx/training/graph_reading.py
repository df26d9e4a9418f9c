"""Nodes and tensors of an ONNX file as training sees them."""

from __future__ import annotations

import numpy as np
import onnx
import torch
from onnx import numpy_helper
from torch import Tensor

from netadapt_onnx.errors import NetadaptError
from netadapt_onnx.graph.nodes import node_name
from netadapt_onnx.training.ops.registry import DTYPES, Node


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
