"""Parts of a graph as models of their own: what lies between some tensors and others."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

import numpy as np
import onnx

from netadapt_onnx.graph.nodes import reads
from netadapt_onnx.graph.weightless import without_weights


def boundary(proto: onnx.ModelProto, front: Collection[int]) -> list[str]:
    """The tensors that the nodes numbered `front` (and the graph's inputs) hand on to all others or put out."""
    inside = {v.name for v in proto.graph.input}
    inside.update(name for i in front for name in proto.graph.node[i].output)
    behind = [name for i, node in enumerate(proto.graph.node) if i not in front for name in reads(node)]
    behind += [v.name for v in proto.graph.output]
    return [name for name in dict.fromkeys(behind) if name in inside]


def needed(proto: onnx.ModelProto, outputs: Sequence[str], inputs: Collection[str] = ()) -> list[int]:
    """The numbers of the nodes that `outputs` need and `inputs` do not provide, in order."""
    producers = {name: i for i, node in enumerate(proto.graph.node) for name in node.output if name}
    nodes: set[int] = set()
    open_ = list(outputs)
    while open_:
        name = open_.pop()
        index = producers.get(name)
        if index is not None and name not in inputs and index not in nodes:
            nodes.add(index)
            open_.extend(reads(proto.graph.node[index]))
    return sorted(nodes)


def between(
    proto: onnx.ModelProto,
    inputs: Mapping[str, np.ndarray],
    outputs: Sequence[str],
    other: Mapping[str, np.ndarray] | None = None,
) -> onnx.ModelProto:
    """The nodes that `outputs` need and `inputs` do not provide, as a model with these inputs and outputs.

    `inputs` are examples of its inputs, `other` the same tensors of another batch: types are declared, and shapes as
    far as the two agree. Sizes that the graph computes are vectors of a fixed length, whose operators want to know it.
    Without `other` every first axis is taken for the batch.
    """
    nodes = needed(proto, outputs, inputs)
    part = without_weights(proto)
    for field in ("node", "input", "output", "value_info", "sparse_initializer"):
        part.graph.ClearField(field)
    part.graph.node.extend(proto.graph.node[i] for i in nodes)
    read = {name for i in nodes for name in reads(proto.graph.node[i])} | set(outputs)
    part.graph.initializer.extend(t for t in proto.graph.initializer if t.name in read)
    for name, value in inputs.items():
        if name in read:
            dtype = onnx.helper.np_dtype_to_tensor_dtype(value.dtype)
            part.graph.input.append(onnx.helper.make_tensor_value_info(name, dtype, _declared(name, value, other)))
    part.graph.output.extend(onnx.ValueInfoProto(name=name) for name in outputs)
    return part


def _declared(name: str, value: np.ndarray, other: Mapping[str, np.ndarray] | None) -> list[int | None]:
    if other is None:
        return [None, *value.shape[1:]] if value.ndim else []
    return [n if n == m else None for n, m in zip(value.shape, other[name].shape, strict=True)]
