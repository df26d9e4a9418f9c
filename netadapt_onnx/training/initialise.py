"""Initial weights by kind of layer: what training from scratch starts from."""

from __future__ import annotations

import math

import numpy as np
import onnx
from onnx import numpy_helper

from netadapt_onnx.training.weights import VIEWS, trainable

RECURRENT = {"LSTM", "GRU", "RNN"}
EMBEDDING_STD = 0.02
PRELU_SLOPE = 0.25


def initialised(proto: onnx.ModelProto, seed: int) -> onnx.ModelProto:
    """A copy with all trainable weights drawn anew from `seed`.

    Matrices and kernels are normal with variance 2 / inputs (He et al., ICCV 2015), recurrent weights uniform within
    1 / sqrt(hidden units), embeddings normal with deviation 0.02; biases are 0; normalisations start as the identity,
    with running mean 0 and variance 1. Layers whose BatchNorm was folded away lose nothing: training gives it back.
    """
    initial = onnx.ModelProto()
    initial.CopyFrom(proto)
    rng = np.random.default_rng(seed)
    kinds = trainable(initial.graph)
    readers: dict[str, tuple[onnx.NodeProto, int]] = {}
    for node in initial.graph.node:
        for slot, name in enumerate(node.input):
            readers.setdefault(name, (node, slot))
    for tensor in initial.graph.initializer:
        if tensor.name not in readers:
            continue
        node, slot = readers[tensor.name]
        while node.op_type in VIEWS and kinds.get(tensor.name) != "weight" and node.output[0] in readers:
            node, slot = readers[node.output[0]]  # a scale behind an Unsqueeze is still one
        values = _fresh(node, slot, tensor, kinds.get(tensor.name), rng)
        if values is not None:
            dtype = onnx.helper.tensor_dtype_to_np_dtype(tensor.data_type)
            tensor.CopyFrom(numpy_helper.from_array(values.astype(dtype), tensor.name))
    return initial


def _fresh(
    node: onnx.NodeProto, slot: int, tensor: onnx.TensorProto, kind: str | None, rng: np.random.Generator
) -> np.ndarray | None:
    """New values, or None for what training leaves alone."""
    shape = tuple(tensor.dims)
    if node.op_type == "BatchNormalization" and slot >= 1:
        return np.full(shape, 1.0 if slot in (1, 4) else 0.0)
    if kind is None:
        return None
    if kind != "weight":
        if node.op_type == "PRelu":
            return np.full(shape, PRELU_SLOPE)
        scale = node.op_type in ("Mul", "Div") or (node.op_type.endswith("Normalization") and slot == 1)
        return np.full(shape, 1.0 if scale else 0.0)
    if node.op_type in RECURRENT:
        hidden = shape[-1] if slot == 2 else next(a.i for a in node.attribute if a.name == "hidden_size")
        return rng.uniform(-1, 1, shape) / math.sqrt(hidden)
    if node.op_type == "Gather":
        return rng.normal(0, EMBEDDING_STD, shape)
    return rng.normal(0, math.sqrt(2 / _fan_in(node, shape)), shape)


def _fan_in(node: onnx.NodeProto, shape: tuple[int, ...]) -> int:
    """How many products each output is a sum of."""
    if node.op_type == "Conv":
        return math.prod(shape[1:])
    if node.op_type == "ConvTranspose":
        return max(1, shape[0] * math.prod(shape[2:]))
    transposed = node.op_type == "Gemm" and any(a.name == "transB" and a.i for a in node.attribute)
    return shape[-1] if transposed or node.op_type == "Transpose" else shape[-2] if len(shape) > 1 else shape[0]
