"""Constant nodes become initializers, so that a constant is spelled in one way."""

from __future__ import annotations

import numpy as np
import onnx
from onnx import numpy_helper

from netadapt_onnx.graph.nodes import is_standard, keep_nodes
from netadapt_onnx.graph.passes.densify_initializers import dense
from netadapt_onnx.graph.passes.result import PassResult

_DTYPES = {"value_float": np.float32, "value_floats": np.float32, "value_int": np.int64, "value_ints": np.int64}


def constants_to_initializers(proto: onnx.ModelProto) -> PassResult[onnx.ModelProto]:
    """Replace Constant nodes of the main graph by initializers of the same names, in place; those of strings stay."""
    graph = proto.graph
    kept = []
    for node in graph.node:
        tensor = constant_value(node) if is_standard(node, "Constant") else None
        if tensor is None:
            kept.append(node)
            continue
        added = graph.initializer.add()
        added.CopyFrom(tensor)
        added.name = node.output[0]
    return PassResult(proto, keep_nodes(graph, kept))


def constant_value(node: onnx.NodeProto) -> onnx.TensorProto | None:
    """The tensor of a Constant node; None for strings."""
    attribute = node.attribute[0] if node.attribute else None
    if attribute is None:
        return None
    if attribute.name == "sparse_value":
        return dense(attribute.sparse_tensor)
    if attribute.name == "value":
        tensor: onnx.TensorProto = attribute.t
        return tensor
    if attribute.name not in _DTYPES:
        return None
    return numpy_helper.from_array(np.array(onnx.helper.get_attribute_value(attribute), _DTYPES[attribute.name]))
