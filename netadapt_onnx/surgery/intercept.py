"""Where a layer's intercept can go without a new operator."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx
from onnx import numpy_helper

from netadapt_onnx.surgery.linear import Linear


@dataclass(frozen=True)
class Sink:
    """`kind`: 'bias' (replace initializer `name`), 'mean' (subtract from a BatchNorm's), 'new' (a bias of its own)."""

    kind: str
    node: int
    name: str


def sink(model: onnx.ModelProto, layer: Linear) -> Sink | None:
    """The place for the layer's intercept; None if there is none (a MatMul followed by no constant vector)."""
    node = model.graph.node[layer.index]
    initializers = {t.name: t for t in model.graph.initializer}
    if len(node.input) > 2 and node.input[2]:
        bias = initializers.get(node.input[2])
        alone = bias is not None and len(bias.dims) == 1 and _readers(model, bias.name) == 1
        return Sink("bias", layer.index, node.input[2]) if alone else None
    readers = [(i, n) for i, n in enumerate(model.graph.node) if node.output[0] in n.input]
    visible = any(v.name == node.output[0] for v in model.graph.output)
    if len(readers) == 1 and not visible:
        index, reader = readers[0]
        if reader.op_type == "BatchNormalization" and _readers(model, reader.input[3]) == 1:
            return Sink("mean", index, reader.input[3])
        if reader.op_type == "Add" and layer.op == "MatMul":
            other = next((name for name in reader.input if name != node.output[0]), "")
            if other in initializers and len(initializers[other].dims) == 1 and _readers(model, other) == 1:
                return Sink("add", index, other)
    return None if layer.op == "MatMul" else Sink("new", layer.index, f"{layer.weight}/bias")


def _readers(model: onnx.ModelProto, name: str) -> int:
    return sum(list(node.input).count(name) for node in model.graph.node)


def add_intercept(model: onnx.ModelProto, place: Sink, intercept: np.ndarray) -> None:
    """Write the intercept (channels,), which replaces whatever bias the layer had."""
    if place.kind == "new":
        node = model.graph.node[place.node]
        weight = next(t for t in model.graph.initializer if t.name == node.input[1])
        dtype = numpy_helper.to_array(weight).dtype
        model.graph.initializer.append(numpy_helper.from_array(intercept.astype(dtype), place.name))
        del node.input[2:]
        node.input.append(place.name)
        return
    tensor = next(t for t in model.graph.initializer if t.name == place.name)
    old = numpy_helper.to_array(tensor)
    # BatchNorm subtracts its mean; the layer in front of it has no bias of its own. An Add's constant is no part of
    # the layer's own output either, so the intercept comes on top of both.
    new = {"bias": intercept, "mean": old - intercept, "add": old + intercept}[place.kind]
    tensor.CopyFrom(numpy_helper.from_array(new.astype(old.dtype), place.name))
