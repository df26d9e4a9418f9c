"""A model whose weights are off by rounding: how far its results move is what rounding alone may do to them.

Inputs alone do not show it: tokens and bytes cannot be moved by one unit in the last place of a float.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import onnx
from onnx import numpy_helper

from netadapt_onnx.graph.subgraphs import all_subgraphs
from netadapt_onnx.graph.weightless import without_weights

# What computes with weights so that its result moves as little as they do. Not here: what compares, rounds or counts,
# and what reads sizes, thresholds or scales of an image, of which a unit in the last place can change everything.
SMOOTH = {
    *("Conv", "ConvTranspose", "DeformConv", "Gemm", "MatMul", "Einsum", "Gather", "FusedConv", "FusedGemm"),
    *("FusedMatMul", "LSTM", "GRU", "RNN", "PRelu", "Attention", "MultiHeadAttention", "EmbedLayerNormalization"),
    *("BatchNormalization", "InstanceNormalization", "GroupNormalization", "GroupNorm", "LayerNormalization"),
    *("RMSNormalization", "SimplifiedLayerNormalization", "SkipLayerNormalization", "BiasGelu", "FastGelu", "BiasAdd"),
    *("SkipSimplifiedLayerNormalization", "RotaryEmbedding"),
}
# Likewise for vectors; a single number is as likely a size or a threshold.
ARITHMETIC = {"Add", "Sub", "Mul", "Div", "Sum", "Where"}
# Of constants these give constants: weights may be on their way.
PASSING = {"Identity", "Cast", "Transpose", "Reshape", "Squeeze", "Unsqueeze", "Flatten", "DequantizeLinear", "Expand"}
# How many of their inputs, from the first, are weights and not shapes or positions.
LEADING = dict.fromkeys(PASSING, 1) | {"DequantizeLinear": 2, "Gather": 1}
SEED = 0


def perturbed(proto: onnx.ModelProto) -> onnx.ModelProto:
    """A copy with every float weight one unit in the last place larger or smaller, by chance; zeros stay."""
    names = _weights(proto.graph)
    rng = np.random.default_rng(SEED)
    copy = without_weights(proto)
    copy.graph.initializer.extend(_perturb(t, rng) if t.name in names else t for t in proto.graph.initializer)
    graphs = [copy.graph, *all_subgraphs(copy.graph.node)]
    for tensor in [t for subgraph in graphs[1:] for t in subgraph.initializer if t.name in names]:
        tensor.CopyFrom(_perturb(tensor, rng))
    for name, tensor in [constant for graph in graphs for constant in _constants(graph)]:
        if name in names:
            tensor.CopyFrom(_perturb(tensor, rng))
    return copy


def _weights(graph: onnx.GraphProto) -> set[str]:
    """Constants that something smooth computes with, at any depth, and that nothing else reads."""
    graphs = [graph, *all_subgraphs(graph.node)]
    nodes = [node for each in graphs for node in each.node]
    sizes = {t.name: int(np.prod(t.dims)) for each in graphs for t in each.initializer}
    sizes |= {name: int(np.prod(t.dims)) for each in graphs for name, t in _constants(each)}
    names: set[str] = set()
    others: set[str] = {value.name for each in graphs for value in each.output}
    for node in reversed(nodes):  # those that pass constants on come after those that read them
        result = node.output[0] if node.output else ""
        smooth = node.op_type in SMOOTH or (node.op_type in PASSING and result in names and result not in others)
        for slot, name in enumerate(node.input):
            vector = node.op_type in ARITHMETIC and sizes.get(name, 2) > 1
            leading = slot < LEADING.get(node.op_type, len(node.input))
            (names if (smooth and leading) or vector else others).add(name)
    return names - others


def _constants(graph: onnx.GraphProto) -> Iterator[tuple[str, onnx.TensorProto]]:
    """The tensors of Constant nodes, by the names of their results."""
    for node in graph.node:
        if node.op_type == "Constant" and node.attribute and node.attribute[0].HasField("t"):
            yield node.output[0], node.attribute[0].t


def _perturb(tensor: onnx.TensorProto, rng: np.random.Generator) -> onnx.TensorProto:
    """The tensor with each value one unit in the last place off; itself if it holds no floats."""
    if tensor.data_type not in (onnx.TensorProto.FLOAT, onnx.TensorProto.DOUBLE):
        return tensor
    values = numpy_helper.to_array(tensor)
    ends = np.where(rng.random(values.shape, np.float32) < 0.5, -np.inf, np.inf).astype(values.dtype)
    moved = np.where((values == 0) | ~np.isfinite(values), values, np.nextafter(values, ends))
    return numpy_helper.from_array(moved, tensor.name)
