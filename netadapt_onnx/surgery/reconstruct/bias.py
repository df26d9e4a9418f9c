"""Where the bias of a solved layer can go without a new operator.

The layer is looked up by the tensor that it puts out: the model that is solved has other nodes than the one that was
traced (subgraphs are laid out flat there, a cut may add some), so that numbers of nodes are not the same.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import onnx
from onnx import numpy_helper

from netadapt_onnx.graph.nodes import reads
from netadapt_onnx.surgery.reconstruct.layers import Linear


@dataclass(frozen=True)
class BiasTarget:
    """Where a layer's bias is written.

    Attributes:
        kind: 'bias': it replaces the initializer `name`. 'mean': it is subtracted from a BatchNorm's. 'add': it is
            added to the constant of an Add. 'new': the layer gets `name` as a bias of its own.
        output: The tensor that the layer puts out.
        name: The initializer.
    """

    kind: str
    output: str
    name: str


def bias_target(model: onnx.ModelProto, layer: Linear) -> BiasTarget | None:
    """Where the layer's bias can go; None if nowhere (a MatMul followed by no constant vector)."""
    node = _producer(model, layer.output)
    initializers = {t.name: t for t in model.graph.initializer}
    if len(node.input) > 2 and node.input[2]:
        bias = initializers.get(node.input[2])
        alone = bias is not None and len(bias.dims) == 1 and _readers(model, bias.name) == 1
        return BiasTarget("bias", layer.output, node.input[2]) if alone else None
    readers = [n for n in model.graph.node if layer.output in reads(n)]
    visible = any(v.name == layer.output for v in model.graph.output)
    if len(readers) == 1 and not visible:
        reader = readers[0]
        if reader.op_type == "BatchNormalization" and _readers(model, reader.input[3]) == 1:
            return BiasTarget("mean", layer.output, reader.input[3])
        if reader.op_type == "Add" and layer.op == "MatMul":
            other = next((name for name in reader.input if name != layer.output), "")
            if other in initializers and len(initializers[other].dims) == 1 and _readers(model, other) == 1:
                return BiasTarget("add", layer.output, other)
    if layer.op == "MatMul":
        return None
    names = (f"{layer.weight}/bias{i or ''}" for i in range(len(initializers) + 1))
    return BiasTarget("new", layer.output, next(name for name in names if name not in initializers))


def _producer(model: onnx.ModelProto, output: str) -> onnx.NodeProto:
    nodes: Iterable[onnx.NodeProto] = model.graph.node
    return next(node for node in nodes if node.output[0] == output)


def _readers(model: onnx.ModelProto, name: str) -> int:
    return sum(reads(node).count(name) for node in model.graph.node)


def set_bias(model: onnx.ModelProto, target: BiasTarget, bias: np.ndarray) -> None:
    """Write the bias (channels,), which replaces whatever bias the layer had, in place."""
    if target.kind == "new":
        node = _producer(model, target.output)
        weight = next(t for t in model.graph.initializer if t.name == node.input[1])
        dtype = numpy_helper.to_array(weight).dtype
        model.graph.initializer.append(numpy_helper.from_array(bias.astype(dtype), target.name))
        del node.input[2:]
        node.input.append(target.name)
        return
    tensor = next(t for t in model.graph.initializer if t.name == target.name)
    old = numpy_helper.to_array(tensor)
    # BatchNorm subtracts its mean; the layer in front of it has no bias of its own. An Add's constant is no part of
    # the layer's own output either, so the new bias comes on top of both.
    new = {"bias": bias, "mean": old - bias, "add": old + bias}[target.kind]
    tensor.CopyFrom(numpy_helper.from_array(new.astype(old.dtype), target.name))
