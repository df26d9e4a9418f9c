"""Which initializers training may move: those that are clearly weights. A detector's grid is a constant too.

Running statistics of BatchNormalization that several layers share are separated: each layer gets a copy, for its own
data. Two kinds of files share them: one head over several pyramid levels, or towers with common weights, whose
statistics differ by level once they are trained on; and exports that store equal tensors once, as all scales and
variances of an untrained network are. Weights that are shared stay shared."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping
from typing import Literal

import numpy as np
import onnx
from onnx import numpy_helper

from netadapt_onnx.graph.nodes import reads

Kind = Literal["weight", "bias", "norm"]

_LAYERS: dict[str, dict[int, Kind]] = {
    "Conv": {1: "weight", 2: "bias"},
    "ConvTranspose": {1: "weight", 2: "bias"},
    "Gemm": {0: "weight", 1: "weight", 2: "bias"},
    "MatMul": {0: "weight", 1: "weight"},
    "FusedMatMul": {0: "weight", 1: "weight"},
    "LSTM": {1: "weight", 2: "weight", 3: "bias"},
    "GRU": {1: "weight", 2: "weight", 3: "bias"},
    "RNN": {1: "weight", 2: "weight", 3: "bias"},
    "Gather": {0: "weight"},
}
_NORMS: dict[str, dict[int, Kind]] = {
    "BatchNormalization": {1: "norm", 2: "norm"},
    "InstanceNormalization": {1: "norm", 2: "norm"},
    "LayerNormalization": {1: "norm", 2: "norm"},
    "GroupNormalization": {1: "norm", 2: "norm"},
    "RMSNormalization": {1: "norm"},
    "SimplifiedLayerNormalization": {1: "norm"},
    "PRelu": {1: "norm"},
    "BiasGelu": {1: "bias"},
}
_AFFINE: dict[str, Kind] = {"Add": "bias", "Sub": "bias", "Mul": "norm", "Div": "norm", "Sum": "bias"}
# Differentiable views: a weight seen through them is still that weight.
VIEWS = {"Identity", "Transpose", "Reshape", "Squeeze", "Unsqueeze", "Flatten", "Cast", "Concat"}
STATISTICS = {"BatchNormalization": (3, 4)}
_FLOATS = {
    onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16, onnx.TensorProto.BFLOAT16, onnx.TensorProto.DOUBLE,
}  # fmt: skip


def trainable(graph: onnx.GraphProto) -> dict[str, Kind]:
    """The initializers that training moves, and what each is: only plain `weight`s are decayed."""
    tensors = {t.name: t for t in graph.initializer if t.data_type in _FLOATS}
    producers = {name: node for node in graph.node for name in node.output}
    kinds: dict[str, Kind] = {}
    for node in graph.node:
        roles = _LAYERS.get(node.op_type) or _NORMS.get(node.op_type) or {}
        for position, name in enumerate(node.input):
            for source in _sources(name, tensors, producers):
                tensor = tensors[source]
                kind = roles.get(position) or _affine_kind(node, position, tensor, producers, tensors)
                if kind is not None and _looks_trained(tensor, node, kind):
                    kinds.setdefault(source, kind)
    statistics = running_statistics(graph)
    return {name: kind for name, kind in kinds.items() if name not in statistics}


def running_statistics(graph: onnx.GraphProto) -> set[str]:
    """Initializers that hold BatchNormalization's running mean or variance."""
    names = {t.name for t in graph.initializer}
    return {
        node.input[i] for node in graph.node for i in STATISTICS.get(node.op_type, ()) if len(node.input) > i
    } & names  # fmt: skip


def _sources(name: str, tensors: Mapping[str, onnx.TensorProto], producers: Mapping[str, onnx.NodeProto]) -> list[str]:
    """The initializers that `name` is a view of; none if anything but views lies between."""
    if name in tensors:
        return [name]
    node = producers.get(name)
    if node is None or node.op_type not in VIEWS:
        return []
    inputs = node.input if node.op_type == "Concat" else node.input[:1]
    sources = [_sources(i, tensors, producers) for i in inputs]
    return [source for each in sources for source in each] if all(sources) else []


def _looks_trained(tensor: onnx.TensorProto, node: onnx.NodeProto, kind: Kind) -> bool:
    size: int = math.prod(tensor.dims)
    if node.op_type == "Gather":
        return len(tensor.dims) == 2 and size > 64
    if node.op_type in ("MatMul", "Gemm", "FusedMatMul") and kind == "weight" and len(tensor.dims) < 2:
        return False
    if node.op_type in _AFFINE:
        return not _is_grid(tensor)
    return size > 0


def _is_grid(tensor: onnx.TensorProto) -> bool:
    """Distinct whole numbers: coordinates or strides, never something that gradients left behind."""
    values: np.ndarray = numpy_helper.to_array(tensor).reshape(-1)
    distinct = values.size > 2 and np.unique(values).size > 1
    return bool(distinct and np.array_equal(values, np.round(values)))


def _affine_kind(
    node: onnx.NodeProto, position: int, tensor: onnx.TensorProto, producers: Mapping[str, onnx.NodeProto],
    tensors: Mapping[str, onnx.TensorProto],
) -> Kind | None:  # fmt: skip
    """A per-channel vector added to or multiplied with what a layer or a normalisation just produced."""
    kind = _AFFINE.get(node.op_type)
    if kind is None or len(node.input) != 2 or (node.op_type == "Div" and position == 0):
        return None
    wide = [size for size in tensor.dims if size > 1]
    if len(wide) != 1:
        return None
    channels = _channels(node.input[1 - position], producers, tensors)
    return kind if channels is not None and channels in (0, wide[0]) else None


def _channels(
    name: str, producers: Mapping[str, onnx.NodeProto], tensors: Mapping[str, onnx.TensorProto]
) -> int | None:
    """Output channels of the layer behind `name`, 0 for a normalisation spelled out, None if there is neither."""
    for _ in range(16):
        node = producers.get(name)
        if node is None:
            return None
        if node.op_type in _LAYERS and node.op_type != "Gather":
            return _layer_channels(node, producers, tensors)
        if node.op_type in _NORMS:
            return 0
        if node.op_type == "Div" and _is_deviation(node.input[1], producers):
            return 0
        if node.op_type in _AFFINE and len(node.input) == 2:
            constant = [bool(_sources(i, tensors, producers)) for i in node.input]
            if constant == [False, False]:
                return 0 if node.op_type == "Mul" and _is_deviation(node.input[1], producers) else None
            name = node.input[constant.index(False)] if False in constant else ""
        elif node.op_type in ("Identity", "Cast", "Transpose", "Reshape", "Squeeze", "Unsqueeze"):
            name = node.input[0]
        else:
            return None
    return None


def _is_deviation(name: str, producers: Mapping[str, onnx.NodeProto]) -> bool:
    """Whether `name` is a square root (or its reciprocal), as in a normalisation that an exporter spelled out."""
    node = producers.get(name)
    while node is not None and node.op_type in ("Reciprocal", "Identity", "Cast"):
        node = producers.get(node.input[0])
    return node is not None and node.op_type in ("Sqrt", "Pow")


def _layer_channels(
    node: onnx.NodeProto, producers: Mapping[str, onnx.NodeProto], tensors: Mapping[str, onnx.TensorProto]
) -> int:
    """Output channels as the layer's weight shows them; 0 when the weight is seen through a view."""
    for position in (1, 0):
        tensor = tensors.get(node.input[position])
        if tensor is None or len(tensor.dims) < 2:
            continue
        if node.op_type == "Conv":
            return int(tensor.dims[0])
        if node.op_type == "ConvTranspose":
            group = next((a.i for a in node.attribute if a.name == "group"), 1)
            return int(tensor.dims[1]) * group
        if node.op_type == "Gemm":
            transposed = any(a.name == "transB" and a.i for a in node.attribute)
            return int(tensor.dims[0 if transposed else 1])
        if node.op_type in ("MatMul", "FusedMatMul"):
            return int(tensor.dims[-1]) if position == 1 else 0
    return 0


def separate_statistics(proto: onnx.ModelProto) -> onnx.ModelProto:
    """A copy in which no two layers read one running mean or variance, nor anything else reads it; else `proto` itself.

    The first layer keeps the name where only statistics are read by it; a copy is called after it and its layer's
    output, so that equal graphs get equal names.
    """
    statistics = running_statistics(proto.graph)
    uses = Counter(name for node in proto.graph.node for name in reads(node) if name in statistics)
    if all(count == 1 for count in uses.values()):
        return proto
    separated = onnx.ModelProto()
    separated.CopyFrom(proto)
    tensors = {tensor.name: tensor for tensor in separated.graph.initializer}
    names = {*tensors, *(name for node in proto.graph.node for name in (*node.input, *node.output))}
    layers = Counter(node.input[slot] for node in proto.graph.node for slot in _slots(node))
    kept: set[str] = set()
    for node in separated.graph.node:
        for slot in _slots(node):
            name = node.input[slot]
            if uses.get(name, 1) == 1:
                continue
            if uses[name] == layers[name] and name not in kept:
                kept.add(name)
                continue
            copy = separated.graph.initializer.add()
            copy.CopyFrom(tensors[name])
            copy.name = _free(
                f"{name}/{node.output[0]}/{'mean' if slot == STATISTICS[node.op_type][0] else 'var'}", names
            )
            node.input[slot] = copy.name
    return separated


def _slots(node: onnx.NodeProto) -> list[int]:
    return [slot for slot in STATISTICS.get(node.op_type, ()) if len(node.input) > slot]


def _free(name: str, names: set[str]) -> str:
    """A name that is not among `names` yet, and now is."""
    while name in names:
        name += "_"
    names.add(name)
    return name
