"""Weights of which shape and type say all that shapes, costs and groups need: they may stay in their files.

What a cut takes of them is read one weight at a time, so that of gigabytes no more is in memory than what is kept.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
from onnx import numpy_helper

from netadapt_onnx.graph.external_data import load_external
from netadapt_onnx.graph.nodes import READS_SHAPE_ONLY, captured, is_standard
from netadapt_onnx.graph.onnx_file import external_array

# The inputs of which no rule, no count and no shape looks at the values. They are constants of the file's own graph,
# so the operators are ONNX's.
UNREAD = {"Conv": {1, 2}, "ConvTranspose": {1, 2}, "Gemm": {0, 1, 2}, "MatMul": {0, 1}, "Gather": {0}}


def values_of(tensor: onnx.TensorProto, file: Path | None) -> np.ndarray:
    """A tensor's values, read now if they were left outside the model `file`."""
    if file is None or tensor.data_location != onnx.TensorProto.EXTERNAL:
        return numpy_helper.to_array(tensor)
    values = external_array(tensor, file)
    return numpy_helper.to_array(loaded(tensor, file)) if values is None else values


def loaded(tensor: onnx.TensorProto, file: Path | None) -> onnx.TensorProto:
    """The tensor itself, or a copy with its values if they were left outside the model `file`."""
    if file is None or tensor.data_location != onnx.TensorProto.EXTERNAL:
        return tensor
    copy = onnx.TensorProto()
    copy.CopyFrom(tensor)
    load_external([copy], file)
    return copy


def unread_weights(proto: onnx.ModelProto) -> set[str]:
    """Initializers of a sorted graph that are read by such inputs alone, beside something that is computed at run time.

    Without that the node would itself be a constant, which is computed. Empty for models with functions, whose bodies
    may do anything with what they get.
    """
    if proto.functions:
        return set()
    graph = proto.graph
    constants = {tensor.name for tensor in graph.initializer}
    runtime = {value.name for value in graph.input} - constants
    read = {value.name for value in graph.output}
    for node in graph.node:
        computed = not runtime.isdisjoint(node.input)
        unread = UNREAD.get(node.op_type, set()) if is_standard(node) and computed else set()
        read.update(name for slot, name in enumerate(node.input) if slot not in unread)
        read.update(captured(node))
        if computed and not is_standard(node, *READS_SHAPE_ONLY):
            runtime.update(filter(None, node.output))
    return constants - read
