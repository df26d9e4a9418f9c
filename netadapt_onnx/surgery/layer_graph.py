"""A network as its layers and the data that flow between them: what drawings show.

Nodes that neither own channels nor multiply nor join several streams of data (activations, norms, pooling) are left
out, so that the graph has a few nodes a block, whatever an exporter writes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Literal

import onnx

from netadapt_onnx.common.grouping import grouped
from netadapt_onnx.graph.cost import CostModel, LayerCost
from netadapt_onnx.graph.nodes import node_name, reads
from netadapt_onnx.surgery.groups import Holders
from netadapt_onnx.surgery.obstacles import cost_at
from netadapt_onnx.surgery.trace import Trace

Kind = Literal["input", "output", "layer", "join"]


@dataclass(frozen=True)
class LayerNode:
    """A layer, a place where streams of data join, or an input or output of the network.

    Attributes:
        kind: Which of these.
        name: The name of the node, or of the input or output.
        path: The same as readers know it (`graph/readable_path.py`).
        op: The operator; empty of an input or output.
        groups: The groups that its output channels belong to, each with how many of them.
        channels: How many output channels a layer has.
        pinned: Why none of them can be removed; None where some can.
        params: The parameters of a layer.
        macs: Its multiply-accumulates.
        weight: The shape of the weight that produces its output.
    """

    kind: Kind
    name: str
    path: str
    op: str = ""
    groups: tuple[tuple[str, int], ...] = ()
    channels: int | None = None
    pinned: str | None = None
    params: int = 0
    macs: int = 0
    weight: tuple[int, ...] = ()


@dataclass(frozen=True)
class LayerGraph:
    """The nodes in topological order, inputs first and outputs last, and edges between them by their numbers."""

    nodes: tuple[LayerNode, ...]
    edges: tuple[tuple[int, int], ...]


def layer_graph(trace: Trace) -> LayerGraph:
    """Reduce a traced network to its layers and joins."""
    graph = trace.flat.proto.graph
    costs = {layer.name: layer for layer in cost_at(trace, CostModel(trace.flat.proto), trace.flat.shapes).layers}
    describe = _Describer(trace, costs)
    nodes = [LayerNode("input", value.name, value.name) for value in graph.input]
    edges: dict[tuple[int, int], None] = {}
    source = {value.name: number for number, value in enumerate(graph.input)}  # by tensor: the node that it comes from
    for number, node in enumerate(graph.node):
        sources = dict.fromkeys(source[name] for name in reads(node) if name in source)
        layer = describe.layer(number, node)
        if layer is None and len(sources) > 1:
            layer = describe.join(node)
        if layer is not None:
            edges |= dict.fromkeys((origin, len(nodes)) for origin in sources)
            sources = {len(nodes): None}
            nodes.append(layer)
        for origin in sources:
            source |= dict.fromkeys(filter(None, node.output), origin)
    for value in graph.output:
        if value.name in source:
            edges[(source[value.name], len(nodes))] = None
        nodes.append(LayerNode("output", value.name, value.name))
    return LayerGraph(tuple(nodes), tuple(edges))


class _Describer:
    """What a drawing says of each node."""

    def __init__(self, trace: Trace, costs: Mapping[str, LayerCost]) -> None:
        self._trace = trace
        self._costs = costs
        self._holders = Holders(trace.members, len(trace.roots))
        self._layers = grouped((layer.node, layer) for layer in trace.labels.layers)

    def layer(self, number: int, node: onnx.NodeProto) -> LayerNode | None:
        """A node that produces channels by its weights, or multiplies by weights of its own; None for any other."""
        name = node_name(node)
        cost = self._costs.get(name)
        params, macs = (0, 0) if cost is None else (cost.params, cost.macs)
        described = LayerNode("layer", name, self._trace.paths[name], node.op_type, params=params, macs=macs)
        layer = next(iter(self._layers.get(number, ())), None)
        if layer is not None:
            groups = self._holders.count(self._trace.roots[layer.channels])
            shape = tuple(self._trace.flat.shapes.get(layer.weight, ()))
            reasons = [self._trace.group(group).reason for group, _ in groups]
            pinned = None if None in reasons else (reasons or ["no rule names its channels"])[0]
            return replace(described, groups=groups, channels=len(layer.channels), pinned=pinned, weight=shape)
        multiplies = cost is not None and cost.macs and cost.weights
        return replace(described, pinned=f"{node.op_type} has no rule") if multiplies else None

    def join(self, node: onnx.NodeProto) -> LayerNode:
        """A node that takes data from several others."""
        name = node_name(node)
        axes = self._trace.axes.get(node.output[0], ()) if node.output else ()
        groups = self._holders.count(max((roots for _, roots in axes), key=len)) if axes else ()
        return LayerNode("join", name, self._trace.paths[name], node.op_type, groups=groups)
