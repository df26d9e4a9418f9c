"""Running statistics of BatchNormalization that several layers share: each layer gets a copy, for its own data.

Two kinds of files share them: one head over several pyramid levels, or towers with common weights, whose statistics
differ by level once they are trained on; and exports that store equal tensors once, as all scales and variances of an
untrained network are. Weights that are shared stay shared.
"""

from __future__ import annotations

from collections import Counter

import onnx

from netadapt_onnx.graph.nodes import reads
from netadapt_onnx.training.weights import STATISTICS, running_statistics


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
