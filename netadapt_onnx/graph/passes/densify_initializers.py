"""Sparse initializers, which neither surgery nor onnx-graphsurgeon reads, become dense ones."""

from __future__ import annotations

from math import prod

import numpy as np
import onnx
from onnx import numpy_helper

from netadapt_onnx.errors import NetadaptError
from netadapt_onnx.graph.passes.result import PassResult

# A sparse initializer of a hundred bytes may stand for terabytes.
LARGEST_DENSE_BYTES = 1 << 31


def densify_initializers(proto: onnx.ModelProto) -> PassResult[onnx.ModelProto]:
    """Replace the sparse initializers of the main graph by dense ones of the same names, in place."""
    sparse = list(proto.graph.sparse_initializer)
    for tensor in sparse:
        proto.graph.initializer.append(dense(tensor))
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
