"""A graph node as rules see it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import onnx

from netadapt_onnx.graph.axis_arrays import Array
from netadapt_onnx.graph.nodes import captured, domain_of, node_name
from netadapt_onnx.graph.shapes import Shape


@dataclass(frozen=True)
class Node:
    """One node of the folded model. `index` is its position there; `opset` the version of its own domain.

    `operands`: the inputs that count as first, second, ..., where a rule takes the node for another operator.
    """

    index: int
    proto: onnx.NodeProto
    opset: int
    operands: tuple[int, ...] | None = None

    @property
    def op(self) -> str:
        """The operator."""
        return self.proto.op_type

    @property
    def domain(self) -> str:
        """The operator's domain, '' for ONNX's own."""
        return domain_of(self.proto)

    @cached_property
    def name(self) -> str:
        """The node's name, or its first output's."""
        return node_name(self.proto)

    @cached_property
    def inputs(self) -> tuple[str, ...]:
        """Input names, '' for those left out."""
        names = tuple(self.proto.input)
        return names if self.operands is None else tuple(names[i] for i in self.operands if i < len(names))

    def seen_as(self, operands: tuple[int, ...]) -> Node:
        """The same node as one that has these inputs only."""
        return replace(self, operands=operands)

    def input_of(self, slot: int) -> int:
        """The input of the file's node that stands at `slot`."""
        return slot if self.operands is None else self.operands[slot]

    @cached_property
    def outputs(self) -> tuple[str, ...]:
        """Output names, '' for those left out."""
        return tuple(self.proto.output)

    @cached_property
    def captured(self) -> tuple[str, ...]:
        """Outer tensors that the node's subgraphs read."""
        return tuple(captured(self.proto))

    @cached_property
    def attributes(self) -> Mapping[str, Any]:
        """Attribute values by name."""
        return {a.name: onnx.helper.get_attribute_value(a) for a in self.proto.attribute}

    def has(self, slot: int) -> bool:
        """Whether the optional input `slot` is given."""
        return slot < len(self.inputs) and self.inputs[slot] != ""

    def integer(self, name: str, default: int) -> int:
        """An integer attribute."""
        return int(self.attributes.get(name, default))

    def text(self, name: str, default: str) -> str:
        """A string attribute."""
        value = self.attributes.get(name, default)
        return value.decode() if isinstance(value, bytes) else str(value)


def align(factor: Array, rank: int) -> Array:
    """Prepend axes of length 1, as broadcasting does."""
    return factor.reshape((1,) * (rank - factor.ndim) + factor.shape)


def aligned_shape(shape: Sequence[int], rank: int) -> Shape:
    """Prepend axes of length 1 to a shape, as broadcasting does."""
    return (1,) * (rank - len(shape)) + tuple(shape)


def labelled(factors: Iterable[Array], axis: int) -> bool:
    """Whether any of the factors has labels along `axis`."""
    return any(f.shape[axis] > 1 for f in factors)


def labelled_on(factor: Array, axes: Iterable[int]) -> bool:
    """Whether a factor has labels along any of the axes."""
    return any(factor.shape[k] > 1 for k in axes)
