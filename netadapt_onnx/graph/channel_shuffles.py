"""Channel shuffles, however they are spelled: channels of one axis in another, fixed order.

Reshape, Transpose, Reshape; the same with a Gather, a Split or a Slice of each half; halves stacked on a new axis and
flattened. The positions of a tensor's elements are followed through operators that move them; it is a shuffle where one
axis alone was rearranged, and its positions were spread over several axes on the way.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnx
from onnx import numpy_helper

from netadapt_onnx.graph.axis_arrays import Array, UnmatchedShapes, matching_runs, on_axis, regroup, squeeze
from netadapt_onnx.graph.folded_model import FoldedModel
from netadapt_onnx.graph.nodes import is_standard
from netadapt_onnx.graph.shapes import Shapes

REGROUPING = {"Reshape", "Flatten", "Squeeze", "Unsqueeze"}
# What may end a shuffle, and what else may be inside it. Of their inputs the first is moved, of Concat all.
ENDS = REGROUPING | {"Transpose", "Gather", "Slice", "Concat"}
MOVING = ENDS | {"Split"}
MOST_NODES = 12


@dataclass(frozen=True)
class Shuffle:
    """A tensor that holds what `sources` hold, one after another along `axis`, in another `order` along it.

    `spread` are the tensors on the way in which the positions along that axis lie on several axes.
    """

    sources: tuple[str, ...]
    axis: int
    order: Array
    spread: frozenset[str]
    is_complete: bool  # all positions of all sources, in their order


class _Chain:
    """The nodes in front of one tensor, `result`, up to some of the tensors that they move."""

    def __init__(self, result: str, graph: _Graph) -> None:
        self._result = result
        self._graph = graph
        self._nodes: set[int] = {graph.producer[result]}

    @property
    def nodes(self) -> list[onnx.NodeProto]:
        """In topological order."""
        return [self._graph.nodes[i] for i in sorted(self._nodes)]

    @property
    def may_shuffle(self) -> bool:
        """Whether an axis is split or merged, and something else than that done."""
        nodes = self.nodes
        return any(n.op_type not in REGROUPING for n in nodes) and any(map(self._graph.splits, nodes))

    def sources(self) -> tuple[str, ...]:
        """The tensors that are moved and come from outside."""
        inside = {name for node in self.nodes for name in node.output}
        names = (name for node in self.nodes for name in moved_inputs(node))
        return tuple(dict.fromkeys(name for name in names if name not in inside))

    def grow(self, sources: Sequence[str], shuffled: Mapping[str, Shuffle]) -> bool:
        """Take in what produces those sources that do not fit, or all if each does; False if that is none."""
        graph = self._graph
        unfit = [name for name in sources if not graph.fits(name, self._result)]
        above = {graph.producer[n] for n in unfit or sources if n not in shuffled and graph.is_moved(n)}
        if not above or len(self._nodes | above) > MOST_NODES:
            return False
        self._nodes |= above
        return True

    def follow(self, start: Mapping[str, Array]) -> dict[str, Array]:
        """What becomes of arrays in which axes without change have length 1; raises UnmatchedShapes."""
        values = dict(start)
        for node in self.nodes:
            values |= self._graph.moved_arrays(node, values)
        return values


class _Graph:
    """What is known of a folded model's tensors."""

    def __init__(self, folded: FoldedModel) -> None:
        self.nodes = list(folded.proto.graph.node)
        self.shapes = folded.shapes
        self.producer = {name: i for i, node in enumerate(self.nodes) for name in node.output if name}
        self.constants = {t.name: t for t in folded.proto.graph.initializer}

    def is_moved(self, name: str) -> bool:
        """Whether a tensor is made of others by moving their elements in a way that is fixed."""
        if name not in self.producer:
            return False
        node = self.nodes[self.producer[name]]
        if not is_standard(node, *MOVING):
            return False
        moved, outputs = moved_inputs(node), filter(None, node.output)
        if any(n not in self.shapes for n in (*moved, *outputs)) or any(n in self.constants for n in moved):
            return False
        return node.op_type not in ("Gather", "Slice") or all(n in self.constants for n in node.input[1:] if n)

    def fits(self, name: str, result: str) -> bool:
        """Whether a tensor has the result's shape, but for the length of one axis."""
        one, other = self.shapes[name], self.shapes[result]
        return len(one) == len(other) and sum(a != b for a, b in zip(one, other, strict=True)) <= 1

    def splits(self, node: onnx.NodeProto) -> bool:
        """Whether a node splits an axis or merges several: without it no axis is spread over others."""
        if node.op_type not in REGROUPING:
            return False
        before, after = self.shapes[node.input[0]], self.shapes[node.output[0]]
        try:
            runs = matching_runs(tuple(before), tuple(after))
        except UnmatchedShapes:
            return False
        sides = [(shape, axes) for run in runs for shape, axes in zip((before, after), run, strict=True)]
        return any(sum(shape[k] > 1 for k in axes) > 1 for shape, axes in sides)

    def moved_arrays(self, node: onnx.NodeProto, values: Mapping[str, Array]) -> dict[str, Array]:
        """A node's results, from arrays that stand for its inputs."""
        x, y = node.input[0], node.output[0]
        attributes = {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute}
        if node.op_type == "Transpose":
            return {y: values[x].transpose(attributes.get("perm"))}
        if node.op_type in REGROUPING:
            return {y: regroup(values[x], tuple(self.shapes[x]), tuple(self.shapes[y]))}
        if node.op_type == "Slice":
            return {y: self._sliced(node, values[x], attributes)}
        rank = len(self.shapes[x])
        axis = int(attributes.get("axis", 0)) % rank
        if node.op_type == "Gather":
            return {y: gather(values[x], self._integers(node, 1), axis)}
        if node.op_type == "Split":
            ends = np.cumsum([0, *(self.shapes[name][axis] for name in node.output)])
            parts = zip(node.output, ends[:-1], ends[1:], strict=True)
            return {name: gather(values[x], np.arange(start, end), axis) for name, start, end in parts}
        return {y: self._joined([(values[name], self.shapes[name][axis]) for name in node.input], axis)}

    def _integers(self, node: onnx.NodeProto, slot: int) -> Array:
        return numpy_helper.to_array(self.constants[node.input[slot]]).astype(np.int64)

    def _sliced(self, node: onnx.NodeProto, value: Array, attributes: Mapping[str, Sequence[int]]) -> Array:
        shape = self.shapes[node.input[0]]
        bounds: list[Sequence[int] | None] = [attributes.get(name) for name in ("starts", "ends", "axes", "steps")]
        for slot in range(1, len(node.input)):
            bounds[slot - 1] = self._integers(node, slot).reshape(-1).tolist() if node.input[slot] else None
        starts, ends = bounds[0] or [], bounds[1] or []
        axes = bounds[2] or range(len(starts))
        for start, end, axis, step in zip(starts, ends, axes, bounds[3] or [1] * len(starts), strict=True):
            stop = None if step < 0 and end < -(2**30) else end
            value = gather(value, np.arange(shape[axis])[start:stop:step], axis % len(shape))
        return value

    @staticmethod
    def _joined(parts: Sequence[tuple[Array, int]], axis: int) -> Array:
        first = parts[0][0]
        if all(part.shape[axis] == 1 and np.array_equal(part, first) for part, _ in parts):
            return first
        wide = np.broadcast_shapes(*([n if k != axis else 1 for k, n in enumerate(p.shape)] for p, _ in parts))
        shapes = [[length if k == axis else n for k, n in enumerate(wide)] for _, length in parts]
        return np.concatenate([np.broadcast_to(p, s) for (p, _), s in zip(parts, shapes, strict=True)], axis)


def moved_inputs(node: onnx.NodeProto) -> list[str]:
    """The inputs whose elements a node of `MOVING` moves."""
    return list(node.input) if node.op_type == "Concat" else list(node.input[:1])


def gather(value: Array, indices: Array, axis: int) -> Array:
    """Positions along one axis, which stands for all of them where the array does not change along it."""
    if value.shape[axis] > 1:
        return value.take(indices, axis)
    return value if indices.ndim == 1 else value.take(np.zeros([1] * indices.ndim, np.int64), axis)


def find_shuffles(folded: FoldedModel) -> dict[str, Shuffle]:
    """The shuffles of a model by the tensor that each results in, in topological order."""
    graph = _Graph(folded)
    shuffles: dict[str, Shuffle] = {}
    for node in graph.nodes:
        result = node.output[0] if node.output else ""
        if node.op_type in ENDS and graph.is_moved(result):
            shuffle = _shuffle(result, graph, shuffles)
            if shuffle is not None:
                shuffles[result] = shuffle
    return shuffles


def _shuffle(result: str, graph: _Graph, shuffled: Mapping[str, Shuffle]) -> Shuffle | None:
    """The shuffle with the nearest sources that ends in a tensor."""
    chain = _Chain(result, graph)
    while True:
        sources = chain.sources()
        if chain.may_shuffle and all(graph.fits(name, result) for name in sources):
            try:
                shuffle = _as_shuffle(chain, sources, result, graph.shapes)
            except (ValueError, IndexError):
                return None
            if shuffle is not None:
                return shuffle
        if not chain.grow(sources, shuffled):
            return None


def _as_shuffle(chain: _Chain, sources: Sequence[str], result: str, shapes: Shapes) -> Shuffle | None:
    """The one axis that a chain rearranges, if it does no more and spreads it on the way."""
    rank = len(shapes[result])
    moving: int | None = None
    if len(sources) > 1:
        numbers = {name: np.full([1] * rank, i, np.int64) for i, name in enumerate(sources)}
        axes = [k for k, n in enumerate(squeeze(chain.follow(numbers)[result]).shape) if n > 1]
        if len(axes) != 1:
            return None
        moving = axes[0]
    rearranged: list[Shuffle] = []
    for axis in range(rank):
        lengths = [shapes[name][axis] for name in sources]
        if max(lengths) == 1 and axis != moving:
            continue
        offsets = np.cumsum([0, *lengths[:-1]]) if axis == moving else np.zeros(len(sources), np.int64)
        start = {
            name: on_axis(np.arange(length) + offset, axis, rank)
            for name, length, offset in zip(sources, lengths, offsets, strict=True)
        }
        values = chain.follow(start)
        order = squeeze(values[result])
        if order.size != order.shape[axis]:
            return None
        positions = np.broadcast_to(order.reshape(-1), shapes[result][axis])
        if axis == moving or not np.array_equal(positions, np.arange(lengths[0])):
            spread = frozenset(name for name, value in values.items() if sum(n > 1 for n in squeeze(value).shape) > 1)
            is_complete = np.array_equal(positions, np.arange(sum(lengths)))
            rearranged.append(Shuffle(tuple(sources), axis, positions, spread - {result}, is_complete))
    return rearranged[0] if len(rearranged) == 1 and rearranged[0].spread else None
