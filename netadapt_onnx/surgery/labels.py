"""Channel labels of every tensor, and what rules may do with them.

A tensor's labels are a tuple of *factors*: integer arrays of the tensor's rank in which an axis without channels has
length 1 and 0 means 'no label'. A position is kept while its labels in all factors are (AND): a Conv weight has one
factor for its output channels and one for its input channels. Tied labels are kept or removed together
(`union_find.py`).
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import onnx
from numpy.typing import NDArray

from netadapt_onnx.common.grouping import grouped
from netadapt_onnx.graph.axis_arrays import Array, on_axis, squeeze
from netadapt_onnx.graph.folded_model import FoldedModel
from netadapt_onnx.graph.lazy_weights import values_of
from netadapt_onnx.graph.shapes import Shape, Shapes
from netadapt_onnx.surgery.conv_group_metadata import ConvGroupMetadata
from netadapt_onnx.surgery.flatten_subgraphs import FlatSubgraph
from netadapt_onnx.surgery.node import Node
from netadapt_onnx.surgery.records import Edit, Factors, Layer, Pin, Use
from netadapt_onnx.surgery.union_find import UnionFind
from netadapt_onnx.surgery.views import views_of_weights

# Labels are arrays: an axis of a billion positions, which takes a few bytes to ask for, would fill the memory.
MOST_POSITIONS = 1 << 24
MOST_AXES = 32  # which numpy can broadcast


class Unsupported(Exception):
    """Raised by a rule that cannot apply; the node then pins its inputs with this reason."""


@dataclass(frozen=True)
class Choices:
    """What a model's structure leaves open and its user decides.

    Attributes:
        attention: Whether whole heads go, or the same dimensions of every head.
        resize_io: Graph inputs and outputs (states, caches) whose axes may be cut; all others keep their shapes.
    """

    attention: Literal["heads", "dims"] = "heads"
    resize_io: tuple[str, ...] = ()


class Labels:
    """The state of one propagation. Rules read and change it only through these methods."""

    def __init__(
        self,
        folded: FoldedModel,
        choices: Choices,
        subgraphs: Mapping[str, Sequence[FlatSubgraph]],
        even: frozenset[str] = frozenset(),
    ) -> None:
        """Start without labels; `even` names convolutions whose groups keep equal counts however narrow they are."""
        self.flat = folded
        self.ties = UnionFind()
        self.choices = choices
        self.subgraphs = subgraphs
        self.uses: list[Use] = []
        self.layers: list[Layer] = []
        self.edits: list[tuple[int, Edit]] = []
        self.masked: list[tuple[int, int]] = []
        self.gathered: list[int] = []
        self.pins: list[Pin] = []
        self.balances: list[tuple[Array, str]] = []
        self.even_groups: list[str] = []  # convolutions whose groups keep equal counts, and of which whole groups go
        self.whole_groups: list[str] = []
        self.conv_group_metadata = ConvGroupMetadata.read(folded.proto)
        self.even = even | self.conv_group_metadata.even_groups
        self.factors: dict[str, Factors] = {}
        self._regarded: set[str] = set()
        self._constants = {t.name: t for t in folded.proto.graph.initializer}
        self._views = views_of_weights(folded.proto.graph)
        self._readers = grouped((name, node) for node in folded.proto.graph.node for name in node.input)

    # -- tensors: shapes, types, values ------------------------------------------------------------------------------

    def shape(self, name: str) -> Shape:
        """Shape of any tensor. Raises Unsupported where execution gave none."""
        if name not in self.flat.shapes:
            raise Unsupported(f"the shape of '{name}' is not known")
        return self.flat.shapes[name]

    def kind(self, name: str) -> str:
        """Numpy's kind of a tensor's type: 'f' for floats."""
        dtype = self.flat.dtypes[name]
        return "f" if dtype.name == "bfloat16" else dtype.kind

    def is_constant(self, name: str) -> bool:
        """Whether a tensor is an initializer, or a view of one that keeps its own name."""
        return name in self._constants or name in self._views

    def is_view(self, name: str) -> bool:
        """Whether a tensor is a view of an initializer (`KEPT_ON_WEIGHTS`)."""
        return name in self._views

    def readers(self, name: str) -> Sequence[onnx.NodeProto]:
        """The nodes that take a tensor as an input, in graph order."""
        return self._readers.get(name, ())

    def shape_of_views(self, shapes: Shapes) -> dict[str, Shape]:
        """Shapes of all views, in graph order, given those of the initializers."""
        views: dict[str, Shape] = {}
        for name, (_, view) in self._views.items():
            shape = views.get(view.input[0], shapes[view.input[0]])
            views[name] = tuple(shape[k] for k in self._order(view)) if view.op_type == "Transpose" else shape
        return views

    def value(self, name: str) -> np.ndarray[Any, Any]:
        """The value of an initializer. Raises Unsupported for anything else."""
        if name not in self._constants:
            raise Unsupported(f"'{name}' is computed at run time")
        return values_of(self._constants[name], self.flat.file)

    def source(self, name: str) -> tuple[str, bool]:
        """The initializer behind a view, and whether the view is one plain transposition of it."""
        node = self._views[name][1]
        return node.input[0], node.op_type == "Transpose" and node.input[0] in self._constants

    def integers(self, node: Node, slot: int, attribute: str | None = None) -> list[int] | None:
        """Integers given as input `slot`, or in older opsets as `attribute`; None if neither is there."""
        if node.has(slot):
            return [int(v) for v in self.value(node.inputs[slot]).reshape(-1)]
        if attribute is not None and attribute in node.attributes:
            return [int(v) for v in np.atleast_1d(node.attributes[attribute])]
        return None

    def of(self, name: str) -> Factors:
        """Labels of a runtime tensor; () where nothing is labelled."""
        self._regarded.add(name)
        return self.factors.get(name, ())

    def disregard(self, name: str) -> None:
        """Record that what the node puts out has nothing to do with this input's channels."""
        self._regarded.add(name)

    def pin_unregarded(self, node: Node) -> None:
        """Pin the labels of inputs that no rule has asked for since this was last called."""
        for name in dict.fromkeys([*node.inputs, *node.captured]):
            for factor in self.factors.get(name, ()) if name not in self._regarded else ():
                self.pin(factor, f"{node.op} '{node.name}' reads it as a whole")
        self._regarded.clear()

    # -- what rules do -----------------------------------------------------------------------------------------------

    def fresh(self, n: int) -> Array:
        """Make new labels (n,), tied to nothing."""
        return self.ties.fresh(n)

    def on_every_axis(self, shape: Shape) -> Factors:
        """Make new labels on every axis of a tensor of this shape, tied to nothing."""
        return tuple(on_axis(self.fresh(n), k, len(shape)) for k, n in enumerate(shape) if n > 1)

    def set(self, name: str, factors: Iterable[Array], reason: str = "single position") -> None:
        """Give a runtime tensor its labels. A factor left with a single position cannot be cut: it is pinned.

        Raises Unsupported where the tensor's shape is not known, or not what the rule takes it for.
        """
        kept = []
        for factor in map(squeeze, factors):
            if factor.size > MOST_POSITIONS:
                raise Unsupported(f"'{name}' has {factor.size} positions to label")
            if factor.size > 1:
                if factor.any():
                    kept.append(factor)
            elif factor.any():
                self.pin(factor, reason)
        if name and kept:
            shape = self.shape(name)
            if any(f.ndim != len(shape) or np.broadcast_shapes(f.shape, shape) != shape for f in kept):
                raise Unsupported(f"the shape {shape} of '{name}' is not what its rule takes it for")
            self.factors[name] = tuple(kept)

    def pin(self, labels: Array, reason: str) -> None:
        """Record that these labels must stay."""
        flat = labels[labels > 0]
        if flat.size:
            self.pins.append(Pin(np.unique(flat), reason))

    def pin_tensor(self, name: str, reason: str) -> None:
        """Record that all labels of a runtime tensor must stay."""
        for factor in self.of(name):
            self.pin(factor, reason)

    def pinned_sets(self) -> NDArray[np.bool_]:
        """For each root label whether its set is pinned, indexed by label."""
        pinned = np.zeros(len(self.ties), bool)
        for pin in self.pins:
            pinned[self.ties.roots(pin.labels)] = True
        return pinned

    def tie(self, a: Array, b: Array, reason: str) -> None:
        """Tie elementwise after broadcasting; a label that meets 'no label' is pinned."""
        a, b = np.broadcast_arrays(a, b)
        a, b = a.reshape(-1), b.reshape(-1)
        both = (a > 0) & (b > 0)
        self.ties.tie(a[both], b[both])
        self.pin(a[~both], reason)
        self.pin(b[~both], reason)

    def balance(self, table: Array, reason: str) -> None:
        """Have a cut keep as many of every row of labels (groups, n), see `conv_groups.py`; what has no label stays."""
        if len(table) > 1 and table.any():
            self.balances.append((table, reason))

    def collapse(self, factor: Array, axis: int, reason: str) -> Array:
        """Tie all labels along `axis`, so that only the other axes can be cut. Returns labels of length 1 there."""
        if factor.shape[axis] == 1:
            return factor
        first = factor.take([0], axis=axis)
        self.tie(first, factor, reason)
        if first.size == 1:
            self.pin(factor, reason)
            return np.zeros_like(first)
        return first

    def keep_axes(self, factor: Array, axes: Collection[int], reason: str) -> Array:
        """Collapse every axis not in `axes`."""
        for k in range(factor.ndim):
            if k not in axes:
                factor = self.collapse(factor, k, reason)
        return factor

    def join(self, factors: list[Array], factor: Array, reason: str) -> list[Array]:
        """Add `factor` to others of the same tensor; those that label the same axis are tied into one."""
        apart = []
        for other in factors:
            if any(a > 1 and b > 1 for a, b in zip(other.shape, factor.shape, strict=True)):
                self.tie(other, factor, reason)
                wide = np.broadcast_shapes(other.shape, factor.shape)
                factor = np.broadcast_to(factor, wide)
            else:
                apart.append(other)
        return [*apart, factor]

    def channels(self, name: str, axis: int, reason: str) -> Array | None:
        """Labels (n,) along one axis of a runtime tensor, for an op that can be cut only there; None if there are none.

        Labels that spread over other axes too are tied along those; labels on other axes alone are pinned.
        """
        channels: Array | None = None
        for factor in self.of(name):
            if factor.shape[axis] == 1:
                self.keep_axes(factor, (), reason)
                continue
            axis_labels = self.keep_axes(factor, (axis,), reason).reshape(-1)
            if channels is not None:
                self.tie(channels, axis_labels, reason)
            channels = axis_labels
        return channels

    def bind(self, node: Node, slot: int, factors: Iterable[Array], blocks: Array | None = None) -> None:
        """Give the constant at input `slot` these labels: a cut slices it so. Looks through views of weights.

        `blocks` (see `Use`) are for constants that are no views.
        """
        squeezed = [squeeze(f) for f in factors]
        kept = tuple(f for f in squeezed if f.size > 1 and f.any())
        for factor in squeezed:
            if factor.size == 1:
                self.pin(factor, f"all of constant '{node.inputs[slot]}' at once")
        name, user, slot = node.inputs[slot], node.index, node.input_of(slot)
        if not kept:
            return
        while name in self._views:
            user, view = self._views[name]
            if view.op_type == "Transpose":
                kept = tuple(f.transpose(np.argsort(self._order(view))) for f in kept)
            elif view.op_type in ("DequantizeLinear", "QuantizeLinear"):
                self._bind_scales(view, user, kept)
            name, slot = view.input[0], 0
        if name not in self._constants:
            raise Unsupported(f"'{name}' is computed at run time")
        dims = self._constants[name].dims
        if any(f not in (1, d) for factor in kept for f, d in zip(factor.shape, dims, strict=True)):
            raise Unsupported(f"labels {[f.shape for f in kept]} do not fit constant '{name}' {tuple(dims)}")
        self.uses.append(Use(name, user, slot, kept, blocks))

    def introduce(self, node: Node, slot: int) -> Factors:
        """Bind the float constant at input `slot` to fresh labels on all its axes; returns them."""
        shape = self.shape(node.inputs[slot])
        if self.kind(node.inputs[slot]) != "f":
            return ()
        factors = self.on_every_axis(shape)
        self.bind(node, slot, factors)
        return factors

    def _bind_scales(self, view: onnx.NodeProto, user: int, factors: Factors) -> None:
        axis = next((a.i for a in view.attribute if a.name == "axis"), 1) % len(factors[0].shape)
        for slot, name in list(enumerate(view.input))[1:]:
            if name and self.shape(name) and int(np.prod(self.shape(name))) > 1:
                if len(self.shape(name)) > 1:
                    raise Unsupported("blocked quantisation")
                along = [self.keep_axes(f, (axis,), "quantisation axis") for f in factors if f.shape[axis] > 1]
                self.uses.extend(Use(name, user, slot, (f.reshape(-1),)) for f in along if f.any())

    def owns(self, node: Node, channels: Array, slot: int, axis: int, axis_labels: Array | None = None) -> None:
        """Record that `node` is a layer whose output channels carry these labels.

        Args:
            node: The layer.
            channels: Labels of its output channels, (channels,).
            slot: The input with the constant that produces them.
            axis: The axis of that constant along which it does.
            axis_labels: The labels along that axis, if they are not `channels` themselves.
        """
        name = node.inputs[slot]
        while name in self._views:
            view = self._views[name][1]
            if view.op_type == "Transpose":
                axis = self._order(view)[axis]
            name = view.input[0]
        along = channels if axis_labels is None else axis_labels
        self.layers.append(Layer(node.index, node.name, node.op, channels, name, axis, along))

    def _order(self, transpose: onnx.NodeProto) -> list[int]:
        reverse = list(range(len(self.shape(transpose.output[0]))))[::-1]
        return next((list(a.ints) for a in transpose.attribute if a.name == "perm"), reverse)

    def edit(self, node: Node, change: Edit) -> None:
        """Have `change(cut, node)` adjust attributes and integer inputs of the node when the model is cut."""
        self.edits.append((node.index, change))

    def mask(self, node: Node, slot: int) -> None:
        """Record that the node contracts input `slot`: the masked reference zeroes removed channels in front of it."""
        if self.of(node.inputs[slot]) or self.is_constant(node.inputs[slot]):
            self.masked.append((node.index, node.input_of(slot)))

    def gather(self, node: Node) -> None:
        """Record that the node reduces over channels: the reference applies it to the kept ones alone."""
        self.gathered.append(node.index)

    def snapshot(self) -> list[tuple[list[Any], int]]:
        """How much has been recorded so far, for `restore`."""
        records: tuple[list[Any], ...] = self.uses, self.layers, self.edits, self.masked, self.gathered, self.balances
        return [(record, len(record)) for record in records]

    def restore(self, mark: Iterable[tuple[list[Any], int]]) -> None:
        """Forget what a rule recorded before it gave up (its ties stay: they only make cuts coarser)."""
        for record, length in mark:
            del record[length:]
