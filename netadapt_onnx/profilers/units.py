"""Units: layers that run as one kernel, from the optimised graph and mapped back to the nodes of the file.

onnxruntime fuses neighbours, adds layout changes and renames tensors, and which of these it does depends on the widths.
So kernels are traced back to the nodes they stand for, and nodes that any measured model ran together are one unit.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnx

from netadapt_onnx.graph.nodes import node_name
from netadapt_onnx.surgery.union_find import UnionFind

LAYOUT = frozenset(
    {
        "ReorderInput",
        "ReorderOutput",
        "Transpose",
        "Cast",
        "MemcpyFromHost",
        "MemcpyToHost",
        "QuantizeLinear",
        "DequantizeLinear",
    }
)
FUSED_ACTIVATIONS = frozenset({"Relu", "Clip", "LeakyRelu", "Sigmoid", "Tanh", "HardSigmoid", "HardSwish", "Gelu"})
# What replaces nodes between a DequantizeLinear and a QuantizeLinear takes a node's name and adds this.
_TOKEN = re.compile(r"_token_\d+$")
LAYOUT_SUFFIXES = ("_nchwc", "_nhwc")
# Attributes that a cut changes: they are of widths, not of kinds.
WIDTH_ATTRIBUTES = frozenset(
    {"group", "split", "shape", "starts", "ends", "hidden_size", "num_heads", "scale", "q_num_heads", "kv_num_heads"}
)


def attributes(node: onnx.NodeProto) -> dict[str, str]:
    """The attributes of a node as text, without those that depend on widths."""
    return {
        a.name: repr(onnx.helper.get_attribute_value(a))
        for a in node.attribute
        if a.name not in WIDTH_ATTRIBUTES
        and a.type not in (onnx.AttributeProto.GRAPH, onnx.AttributeProto.GRAPHS, onnx.AttributeProto.TENSOR)
        and not (node.op_type == "Pad" and a.name == "pads")
    }


def family(proto: onnx.ModelProto) -> str:
    """Hash a graph without its widths: the hash is equal for a model and whatever surgery cuts from it."""
    digest = hashlib.sha256()
    for node in proto.graph.node:
        kept = sorted(attributes(node).items())
        digest.update(repr((node.domain, node.op_type, list(node.input), list(node.output), kept)).encode())
    for tensor in sorted(proto.graph.initializer, key=lambda t: t.name):
        digest.update(repr((tensor.name, tensor.data_type, len(tensor.dims))).encode())
    digest.update(repr([(v.name, v.type.tensor_type.elem_type) for v in proto.graph.input]).encode())
    return digest.hexdigest()[:16]


@dataclass(frozen=True)
class Kernel:
    """A kernel of the optimised graph: the layers that it stands for, its time in microseconds, its operator."""

    layers: tuple[str, ...]
    us: float
    op: str


@dataclass(frozen=True)
class Unit:
    """Layers that run as one kernel.

    Attributes:
        name: the main layer's name.
        kind: equal for units that cost the same at the same widths.
        tensors: operands and result of the main layer; their shapes are all that the unit's time depends on.
    """

    name: str
    kind: str
    tensors: tuple[str, ...]


class Layers:
    """The nodes of a model by name, to trace kernels back to."""

    def __init__(self, proto: onnx.ModelProto) -> None:
        graph = proto.graph
        self.proto = proto
        self._nodes = {node_name(node): node for node in graph.node}
        self._order = {name: i for i, name in enumerate(self._nodes)}
        self._producer = {out: name for name, node in self._nodes.items() for out in node.output if out}
        self._weights = {t.name for t in graph.initializer if len(t.dims) > 1}
        self._readers: dict[str, list[str]] = {}
        for name, node in self._nodes.items():
            for tensor in node.input:
                self._readers.setdefault(tensor, []).append(name)

    def kernels(self, optimised: onnx.GraphProto, us: Mapping[str, float]) -> list[Kernel]:
        """List the kernels of an optimised graph with the layers that each stands for.

        `us`: microseconds by node name.
        """
        source: dict[str, str] = {}
        results: list[tuple[onnx.NodeProto, list[str], bool]] = []
        for node in optimised.node:
            layout = bool(node.input) and node.op_type in LAYOUT and node.output[0] not in self._producer
            originals = [source.get(node.input[0], node.input[0])] if layout else self._results(node)
            source.update(zip(node.output, originals, strict=False))
            results.append((node, originals, layout))
        stops = {tensor for _, tensors, layout in results if not layout for tensor in tensors}
        kernels: list[Kernel] = []
        for node, tensors, layout in results:
            covered = self._owner(tensors) if layout else self._covered(tensors, stops)
            if not covered and kernels:  # a kernel of unknown origin counts where it runs
                covered = kernels[-1].layers[:1]
            if covered:
                op = f"{node.domain}::{node.op_type}" if node.domain else node.op_type
                kernels.append(Kernel(covered, us.get(node.name, 0.0), op))
        return kernels

    def _results(self, node: onnx.NodeProto) -> list[str]:
        """The original tensors that an optimised node computes; empty if none can be recognised."""
        originals = [name for name in node.output if name in self._producer]
        if originals:
            return originals
        for suffix in LAYOUT_SUFFIXES:
            if node.name.endswith(suffix) and node.name.removesuffix(suffix) in self._producer:
                return [self._advanced(node, node.name.removesuffix(suffix))]
        name = _TOKEN.sub("", node.name)
        if name not in self._nodes:
            return []
        tensor = self._nodes[name].output[0]
        if node.op_type.startswith("Q"):  # BatchNorm was folded, and clipping is what the next scale does anyway
            tensor = self._after(self._after(tensor, {"BatchNormalization"}), FUSED_ACTIVATIONS)
        return [tensor]

    def _advanced(self, node: onnx.NodeProto, tensor: str) -> str:
        """The tensor that a blocked conv computes: its name is from before a sum and an activation were fused."""
        if node.op_type != "Conv":
            return tensor
        if len(node.input) > 3 and node.input[3]:
            tensor = self._after(tensor, {"Add", "Sum"})
        if any(a.name == "activation" for a in node.attribute):
            tensor = self._after(tensor, FUSED_ACTIVATIONS)
        return tensor

    def _after(self, tensor: str, ops: Collection[str]) -> str:
        if self._nodes[self._producer[tensor]].op_type in ops:
            return tensor
        readers = [name for name in self._readers.get(tensor, []) if self._nodes[name].op_type in ops]
        return self._nodes[readers[0]].output[0] if readers else tensor

    def _owner(self, tensors: Sequence[str]) -> tuple[str, ...]:
        """The layer that a layout change counts with: the tensor's producer; of a graph input, its reader."""
        if tensors[0] in self._producer:
            return (self._producer[tensors[0]],)
        return tuple(self._readers.get(tensors[0], [])[:1])

    def _covered(self, tensors: Sequence[str], stops: set[str]) -> tuple[str, ...]:
        covered: set[str] = set()
        pending = [self._producer[name] for name in tensors if name in self._producer]
        while pending:
            name = pending.pop()
            if name not in covered:
                covered.add(name)
                inputs = (tensor for tensor in self._nodes[name].input if tensor not in stops)
                pending += [self._producer[tensor] for tensor in inputs if tensor in self._producer]
        return tuple(sorted(covered, key=self._order.__getitem__))

    def units(self, groups: Iterable[tuple[str, ...]]) -> dict[str, Unit]:
        """The unit of every layer in `groups`: layers that share a group in any measured model share a unit.

        But each layer with a weight is a unit of its own: a sum is fused into one conv or the other, and what either
        costs depends on its own widths. Layers without a weight count with the first that has one.
        """
        pairs = [[self._order[name], self._order[group[0]]] for group in groups for name in group]
        sets = UnionFind()
        labels = sets.fresh(len(self._order))
        sets.tie(*labels[np.array(pairs, np.int64).reshape(-1, 2)].T)
        roots, layers = sets.roots(labels).tolist(), self.names
        related: dict[int, list[str]] = {}
        for number in sorted({number for number, _ in pairs}):
            related.setdefault(roots[number], []).append(layers[number])
        members: dict[str, list[str]] = {}
        for names in related.values():
            for name in names:
                members.setdefault(name if self._weighted(name) else self.main(names), []).append(name)
        return {name: unit for main, names in members.items() for unit in [self._unit(main, names)] for name in names}

    @property
    def names(self) -> tuple[str, ...]:
        """All layers, in the graph's order."""
        return tuple(self._nodes)

    def main(self, names: Sequence[str]) -> str:
        """The layer that decides what a kernel costs: the first with a weight, otherwise the first."""
        return next(filter(self._weighted, names), names[0])

    def _weighted(self, name: str) -> bool:
        return not self._weights.isdisjoint(self._nodes[name].input)

    def contradiction(self, kernels: Iterable[tuple[Sequence[str], Sequence[Sequence[int]]]]) -> str | None:
        """What kernels, as layers and the main one's shapes, say that cannot be of this model; None if nothing."""
        ranks: dict[str, list[int]] = {}
        for names, shapes in kernels:
            unknown = next((name for name in names if name not in self._nodes), None)
            if unknown is not None:
                return f"a layer '{unknown}', which the model does not have"
            main, rank = self.main(names), [len(shape) for shape in shapes]
            if len(rank) != len(self.tensors(main)):
                return f"{len(rank)} shapes of the {len(self.tensors(main))} tensors of '{main}'"
            if ranks.setdefault(main, rank) != rank:
                return f"shapes of '{main}' with other numbers of axes than in other versions"
        return None

    def tensors(self, name: str) -> tuple[str, ...]:
        """Operands and first result of a layer."""
        node = self._nodes[name]
        return tuple(tensor for tensor in [*node.input, node.output[0]] if tensor)

    def _unit(self, main: str, names: Sequence[str]) -> Unit:
        node = self._nodes[main]
        ops = "+".join(self._nodes[n].op_type for n in names)
        kind = [ops, *(f"{k}={v}" for k, v in sorted(attributes(node).items()))]
        return Unit(main, " ".join(kind), self.tensors(main))
