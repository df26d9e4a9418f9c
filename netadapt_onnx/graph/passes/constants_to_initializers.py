"""Constant nodes become initializers, and sparse initializers dense ones: a constant is spelled in one way.

Neither surgery nor onnx-graphsurgeon reads sparse ones."""

from __future__ import annotations

from math import prod

import numpy as np
import onnx
from onnx import numpy_helper

from netadapt_onnx.errors import NetadaptError
from netadapt_onnx.graph.nodes import is_standard, keep_only
from netadapt_onnx.graph.passes.result import PassResult

# A sparse initializer of a hundred bytes may stand for terabytes.
LARGEST_DENSE_BYTES = 1 << 31


def densify_initializers(proto: onnx.ModelProto) -> PassResult[onnx.ModelProto]:
    """Replace the sparse initializers of the main graph by dense ones of the same names, in place."""
    sparse = list(proto.graph.sparse_initializer)
    proto.graph.initializer.extend(map(dense, sparse))
    del proto.graph.sparse_initializer[:]
    return PassResult(proto, bool(sparse))


def dense(sparse: onnx.SparseTensorProto) -> onnx.TensorProto:
    """The same tensor with its zeros. Raises NetadaptError if its indices do not fit or it would be huge."""
    name, shape = sparse.values.name, tuple(sparse.dims)
    values, indices = numpy_helper.to_array(sparse.values), numpy_helper.to_array(sparse.indices)
    if prod(shape) * values.itemsize > LARGEST_DENSE_BYTES:
        raise NetadaptError(f"sparse initializer '{name}' {shape} is too large to be stored dense", code="unsupported")
    flat = np.zeros(prod(shape), values.dtype)
    try:
        positions = indices if indices.ndim == 1 else np.ravel_multi_index(tuple(indices.T), shape)
        flat[positions] = values
    except (IndexError, ValueError) as error:
        raise NetadaptError(f"sparse initializer '{name}' has indices beyond {shape}", code="not-onnx") from error
    return numpy_helper.from_array(flat.reshape(shape), name)


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
    return PassResult(proto, keep_only(graph.node, kept))


def constant_value(node: onnx.NodeProto) -> onnx.TensorProto | None:
    """The tensor of a Constant node; None for strings."""
    if not node.attribute:
        return None
    name, value = node.attribute[0].name, onnx.helper.get_attribute_value(node.attribute[0])
    if name == "sparse_value":
        return dense(value)
    if name in _DTYPES:
        return numpy_helper.from_array(np.array(value, _DTYPES[name]))
    return value if name == "value" else None
