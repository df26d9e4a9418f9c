"""Subgraphs laid out flat (`flatten_subgraphs.py`) put back into the nodes that they belong to."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import onnx

from netadapt_onnx.graph.subgraphs import captured, rename
from netadapt_onnx.surgery.flatten_subgraphs import Body


def restore(
    proto: onnx.ModelProto, bodies: Iterable[Body], shape: Callable[[str], tuple[int, ...] | None] | None = None
) -> None:
    """Put the nodes of a flat model back into their bodies, in place. Nodes added since follow what they read.

    `shape` tells what tensors have become, where they have changed; None where that is not known.
    """
    bodies = list(bodies)
    if not bodies:
        return
    flat = _Flat(proto.graph)
    for body in bodies:
        flat.put_back(body, shape)
    flat.write()


class _Flat:
    """The nodes of a flat graph by position, and who produces and reads what, while bodies are put back one by one."""

    def __init__(self, graph: onnx.GraphProto) -> None:
        self._graph = graph
        self._nodes = {i: onnx.NodeProto.FromString(n.SerializeToString()) for i, n in enumerate(graph.node)}
        self._producer = {name: i for i, node in self._nodes.items() for name in node.output if name}
        # By input alone, and by bodies inside as well.
        self._readers: dict[str, set[int]] = {}
        self._needs: dict[str, set[int]] = {}
        for i, node in self._nodes.items():
            for name in node.input:
                self._readers.setdefault(name, set()).add(i)
            self._reads(i)
        self._outputs = {value.name for value in graph.output}
        self._constants = {tensor.name: i for i, tensor in enumerate(graph.initializer)}
        self._moved: list[int] = []

    def _reads(self, index: int) -> None:
        node = self._nodes[index]
        for name in (*node.input, *captured(node)):
            self._needs.setdefault(name, set()).add(index)

    def put_back(self, body: Body, shape: Callable[[str], tuple[int, ...] | None] | None) -> None:
        """Move the nodes and the constants of one body into its owner; the bodies inside it are back already."""
        members = self._members(body)
        nodes = [self._nodes.pop(i) for i in members]
        read = set(body.outputs)
        for i, node in zip(members, nodes, strict=True):
            for name in (*node.input, *captured(node)):
                self._needs[name].discard(i)
                read.add(name)
        content = onnx.GraphProto()
        content.CopyFrom(body.frame)
        if shape is not None:
            for names, values in ((body.inputs, content.input), (body.outputs, content.output)):
                for name, value in zip(names, values, strict=True):
                    _declare(value, shape(name) or ())
        for i in sorted((self._constants[name] for name in read if name in self._constants), reverse=True):
            tensor = self._graph.initializer[i]
            if self._needs.get(tensor.name) or tensor.name in self._outputs:
                continue
            content.initializer.add().CopyFrom(tensor)
            content.initializer[-1].name = body.names.get(tensor.name, tensor.name)
            del self._constants[tensor.name]
            self._moved.append(i)
        for node in nodes:
            rename(node, body.names)
        content.node.extend(nodes)
        owner = self._producer[body.owner]
        self._nodes[owner].attribute.append(onnx.helper.make_attribute(body.attribute, content))
        self._reads(owner)

    def _members(self, body: Body) -> list[int]:
        """The nodes of a body, and those that surgery added which compute with what is inside; the owner never does."""
        owner = self._producer[body.owner]
        members: dict[int, None] = {}
        waiting = list(body.names)
        while waiting:
            name = waiting.pop()
            near = set() if name in self._constants else set(self._readers.get(name, ()))
            if name in self._producer:
                near.add(self._producer[name])
            for i in near:
                if i in self._nodes and i not in members and i != owner:
                    members[i] = None
                    waiting.extend(filter(None, self._nodes[i].output))
        return sorted(members)

    def write(self) -> None:
        """Give the graph the nodes that are left."""
        for i in sorted(self._moved, reverse=True):
            del self._graph.initializer[i]
        del self._graph.node[:]
        self._graph.node.extend(self._nodes[i] for i in sorted(self._nodes))


def _declare(value: onnx.ValueInfoProto, shape: tuple[int, ...]) -> None:
    """Write the sizes of a tensor over those that the file declares; what it leaves open stays open."""
    for dim, size in zip(value.type.tensor_type.shape.dim, shape, strict=False):
        if dim.HasField("dim_value"):
            dim.dim_value = size
