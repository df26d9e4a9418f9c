"""A model of half precision in float32, in which its cut can be proven.

onnxruntime rounds after each operator, so that sums over fewer channels differ by a thousandth in float16, and its CPU
kernels lack bfloat16 altogether. The values of the weights stay what they are.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import onnx
from onnx import TensorProto, numpy_helper

from netadapt_onnx.graph.nodes import subgraphs_of
from netadapt_onnx.graph.weightless import without_weights

NARROW = {TensorProto.FLOAT16, TensorProto.BFLOAT16}
# Attributes that name an element type.
TYPES = {"to", "dtype", "output_dtype"}


def upcast(proto: onnx.ModelProto) -> onnx.ModelProto:
    """The same model with float32 in place of float16 and bfloat16; itself if it has neither."""
    if not _is_narrow(proto.graph):
        return proto
    copy = without_weights(proto)
    copy.graph.initializer.extend(_tensor(tensor) for tensor in proto.graph.initializer)
    _upcast(copy.graph)
    return copy


def upcast_dtype(dtype: np.dtype) -> np.dtype:
    """float32 for the narrow floats, any other type as it is."""
    return np.dtype(np.float32) if dtype.name in ("float16", "bfloat16") else dtype


def _is_narrow(graph: onnx.GraphProto) -> bool:
    if any(tensor.data_type in NARROW for tensor in graph.initializer):
        return True
    if any(value.type.tensor_type.elem_type in NARROW for value in [*graph.input, *graph.output]):
        return True
    attributes = [a for node in graph.node for a in node.attribute]
    if any(a.i in NARROW for a in attributes if a.name in TYPES) or any(a.t.data_type in NARROW for a in attributes):
        return True
    return any(_is_narrow(subgraph) for node in graph.node for subgraph in subgraphs_of(node))


def _upcast(graph: onnx.GraphProto) -> None:
    _declare([*graph.input, *graph.output, *graph.value_info])
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.name in TYPES and attribute.i in NARROW:
                attribute.i = TensorProto.FLOAT
            if attribute.HasField("t"):
                attribute.t.CopyFrom(_tensor(attribute.t))
        for subgraph in subgraphs_of(node):
            for tensor in subgraph.initializer:
                tensor.CopyFrom(_tensor(tensor))
            _upcast(subgraph)


def _declare(values: Iterable[onnx.ValueInfoProto]) -> None:
    for value in values:
        if value.type.tensor_type.elem_type in NARROW:
            value.type.tensor_type.elem_type = TensorProto.FLOAT


def _tensor(tensor: TensorProto) -> TensorProto:
    if tensor.data_type not in NARROW:
        return tensor
    return numpy_helper.from_array(numpy_helper.to_array(tensor).astype(np.float32), tensor.name)
