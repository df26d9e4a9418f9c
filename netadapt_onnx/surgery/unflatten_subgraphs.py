"""Subgraphs laid out flat (`flatten_subgraphs.py`) put back into the nodes that they belong to."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import onnx

from netadapt_onnx.graph.nodes import captured, rename, replace_all
from netadapt_onnx.graph.shapes import Shapes
from netadapt_onnx.surgery.flatten_subgraphs import FlatSubgraph


def unflatten(proto: onnx.ModelProto, subgraphs: Sequence[FlatSubgraph], shapes: Shapes | None = None) -> None:
    """Put the nodes of a flat model back into their subgraphs, in place.

    Nodes that surgery added go into the subgraph whose tensors they compute with.

    Args:
        proto: The flat model.
        subgraphs: What `flatten` returned, innermost first.
        shapes: What the shapes of tensors have become, by flat name, where they have changed.
    """
    if not subgraphs:
        return
    flat = _FlatGraph(proto.graph)
    for subgraph in subgraphs:
        flat.put_back(subgraph, shapes)
    flat.write()


class _FlatGraph:
    """The nodes of a flat graph by position, and who produces and reads what, while subgraphs are put back."""

    def __init__(self, graph: onnx.GraphProto) -> None:
        self._graph = graph
        self._nodes = {i: onnx.NodeProto.FromString(n.SerializeToString()) for i, n in enumerate(graph.node)}
        self._producer = {name: i for i, node in self._nodes.items() for name in node.output if name}
        self._input_readers: dict[str, set[int]] = {}
        self._readers: dict[str, set[int]] = {}  # the same, and those whose subgraphs read it
        for i, node in self._nodes.items():
            for name in node.input:
                self._input_readers.setdefault(name, set()).add(i)
            self._add_reader(i)
        self._outputs = {value.name for value in graph.output}
        self._constants = {tensor.name: i for i, tensor in enumerate(graph.initializer)}
        self._moved_constants: list[int] = []

    def _add_reader(self, index: int) -> None:
        node = self._nodes[index]
        for name in (*node.input, *captured(node)):
            self._readers.setdefault(name, set()).add(index)

    def put_back(self, subgraph: FlatSubgraph, shapes: Shapes | None) -> None:
        """Move the nodes and the constants of one subgraph into its owner; those inside it are back already."""
        members = self._members(subgraph)
        nodes = [self._nodes.pop(i) for i in members]
        reads = set(subgraph.outputs)
        for i, node in zip(members, nodes, strict=True):
            for name in (*node.input, *captured(node)):
                self._readers[name].discard(i)
                reads.add(name)
        content = onnx.GraphProto()
        content.CopyFrom(subgraph.frame)
        if shapes is not None:
            _declare(content.input, subgraph.inputs, shapes)
            _declare(content.output, subgraph.outputs, shapes)
        self._move_constants(reads, content, subgraph.names)
        for node in nodes:
            rename(node, subgraph.names)
        content.node.extend(nodes)
        owner = self._producer[subgraph.owner]
        self._nodes[owner].attribute.append(onnx.helper.make_attribute(subgraph.attribute, content))
        self._add_reader(owner)

    def _move_constants(self, reads: set[str], content: onnx.GraphProto, names: Mapping[str, str]) -> None:
        """Move those constants that nothing else reads into the subgraph, under their names there."""
        for i in sorted((self._constants[name] for name in reads if name in self._constants), reverse=True):
            tensor = self._graph.initializer[i]
            if self._readers.get(tensor.name) or tensor.name in self._outputs:
                continue
            content.initializer.add().CopyFrom(tensor)
            content.initializer[-1].name = names.get(tensor.name, tensor.name)
            del self._constants[tensor.name]
            self._moved_constants.append(i)

    def _members(self, subgraph: FlatSubgraph) -> list[int]:
        """The nodes of a subgraph and the added ones that compute with what is inside; the owner is none of them."""
        owner = self._producer[subgraph.owner]
        members: dict[int, None] = {}
        waiting = list(subgraph.names)
        while waiting:
            name = waiting.pop()
            near = set() if name in self._constants else set(self._input_readers.get(name, ()))
            if name in self._producer:
                near.add(self._producer[name])
            for i in near:
                if i in self._nodes and i not in members and i != owner:
                    members[i] = None
                    waiting.extend(filter(None, self._nodes[i].output))
        return sorted(members)

    def write(self) -> None:
        """Give the graph the nodes that it still has."""
        for i in sorted(self._moved_constants, reverse=True):
            del self._graph.initializer[i]
        replace_all(self._graph.node, (self._nodes[i] for i in sorted(self._nodes)))


def _declare(values: Sequence[onnx.ValueInfoProto], names: Sequence[str], shapes: Shapes) -> None:
    """Write the sizes of tensors over those that the file declares; what it leaves open stays open."""
    for value, name in zip(values, names, strict=True):
        for dim, size in zip(value.type.tensor_type.shape.dim, shapes.get(name, ()), strict=False):
            if dim.HasField("dim_value"):
                dim.dim_value = size
