"""Propagate labels through a model and find its groups."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from math import prod

import numpy as np
import onnx
from numpy.typing import NDArray

from netadapt_onnx.errors import NetadaptError, did_you_mean
from netadapt_onnx.graph.folded_model import FoldedModel
from netadapt_onnx.graph.passes.pipeline import rewrite
from netadapt_onnx.surgery.balance import tie_by_index, tie_in_bundles
from netadapt_onnx.surgery.factors import on_axis, squeeze
from netadapt_onnx.surgery.flatten_subgraphs import Body, flatten
from netadapt_onnx.surgery.groups import Group, find_groups
from netadapt_onnx.surgery.labels import MOST_AXES, MOST_POSITIONS, Choices, Labels, Layer, Unsupported, Use
from netadapt_onnx.surgery.node import Node
from netadapt_onnx.surgery.rules import RULES
from netadapt_onnx.surgery.union_find import Array, components
from netadapt_onnx.surgery.views import with_own_views

# A tensor of more elements is not labelled position by position.
LARGEST_JOINT = 1 << 20
# Per group the channels that a model has after a cut, ascending. One that is repeated gets new channels beside it.
KeptIndices = Mapping[str, Array]


@dataclass(frozen=True)
class Trace:
    """A folded model with its labels resolved. `members[group]` is the root label of each of its channels.

    `flat` is the model with its subgraphs laid out flat (`flatten_subgraphs.py`), the nodes of labels, uses and layers.
    `roots` and `pinned` (whether its set must stay) are indexed by label, like `runs`: roots as they were before
    channels of different conv groups were tied for the sake of equal counts (`balance.py`).
    """

    folded: FoldedModel
    flat: FoldedModel
    bodies: tuple[Body, ...]
    labels: Labels
    roots: Array
    runs: Array
    pinned: NDArray[np.bool_]
    groups: tuple[Group, ...]
    members: Mapping[str, Array]

    def group(self, name: str) -> Group:
        """A group by name; NetadaptError with the nearest names if there is none."""
        if name in self._group_of_name:
            return self._group_of_name[name]
        hint = did_you_mean(name, [g.name for g in self.groups], "`netadapt-onnx inspect` lists them")
        raise NetadaptError(f"the model has no group '{name}'", hint=hint, code="unknown-group")

    @cached_property
    def _group_of_name(self) -> dict[str, Group]:
        return {group.name: group for group in reversed(self.groups)}

    @cached_property
    def _layers_of_name(self) -> dict[str, list[Layer]]:
        layers: dict[str, list[Layer]] = {}
        for layer in self.labels.layers:
            layers.setdefault(layer.name, []).append(layer)
        return layers

    @cached_property
    def readers(self) -> dict[str, list[onnx.NodeProto]]:
        """The nodes of the flat model that read each tensor as an input."""
        readers: dict[str, list[onnx.NodeProto]] = {}
        for node in self.flat.proto.graph.node:
            for name in dict.fromkeys(node.input):
                readers.setdefault(name, []).append(node)
        return readers

    @cached_property
    def _uses_of_name(self) -> dict[str, list[tuple[Use, int, Array]]]:
        names = list(self.members)
        group_of_root = np.full(len(self.roots), -1)
        for i, name in enumerate(names):
            group_of_root[self.members[name]] = i
        uses: dict[str, list[tuple[Use, int, Array]]] = {}
        for use in self.labels.uses:
            for axis, line in map(self.line_of, use.factors):
                roots = line if use.blocks is None or axis != 1 else self.roots[use.blocks]
                for i in np.unique(group_of_root[roots]).tolist():
                    if i >= 0:
                        uses.setdefault(names[i], []).append((use, axis, line))
        return uses

    def layers_of(self, group: Group) -> list[Layer]:
        """The layers whose outputs belong to a group, in topological order."""
        layers = [layer for name in group.layers for layer in self._layers_of_name.get(name, [])]
        return sorted(layers, key=lambda layer: layer.node)

    def uses_of(self, group: Group) -> list[tuple[Use, int, Array]]:
        """The constants that hold a group's channels: each use, the axis, and the root labels along it."""
        return self._uses_of_name.get(group.name, [])

    @property
    def prunable(self) -> tuple[Group, ...]:
        """The groups that a cut may name."""
        return tuple(g for g in self.groups if g.prunable)

    @cached_property
    def axes(self) -> dict[str, tuple[tuple[int, Array], ...]]:
        """For each labelled tensor: the axes a cut changes, and the root label of every position along them."""
        return self._lines(self.roots)

    @cached_property
    def run_axes(self) -> dict[str, tuple[tuple[int, Array], ...]]:
        """The same with `runs` for roots."""
        return self.axes if self.runs is self.roots else self._lines(self.runs)

    def _lines(self, numbers: Array) -> dict[str, tuple[tuple[int, Array], ...]]:
        found: dict[str, list[tuple[int, Array]]] = {}
        for name, factors in self.labels.factors.items():
            found[name] = [(axis, numbers[line]) for axis, line in map(self._labels_along, factors)]
        for use in self.labels.uses:
            lines = found.setdefault(use.constant, [])
            for factor in use.factors:
                axis, labels = self._labels_along(factor)
                if not any(k == axis and np.array_equal(numbers[labels], other) for k, other in lines):
                    lines.append((axis, numbers[labels]))
        return {name: tuple(lines) for name, lines in found.items()}

    def line_of(self, factor: Array) -> tuple[int, Array]:
        """The one axis along which a factor can be cut, and the root labels along it."""
        axis, labels = self._labels_along(factor)
        return axis, self.roots[labels]

    def runs_of(self, factor: Array) -> Array:
        """The runs along that axis."""
        line: Array = self.runs[self._labels_along(factor)[1]]
        return line

    def _labels_along(self, factor: Array) -> tuple[int, Array]:
        """The one axis along which a factor can be cut, and the labels along it.

        Pinned labels may still differ along other axes: like unlabelled positions they are kept in any case.
        """
        roots = self.roots[factor]
        shape = squeeze(np.where(self.pinned[roots], 0, roots)).shape
        axis = int(np.argmax(shape if max(shape) > 1 else roots.shape))
        for k in range(factor.ndim):
            if k != axis:
                factor = factor.take([0], axis=k)
        return axis, factor.reshape(-1)

    def copies(self, keep: KeptIndices) -> Array:
        """How often each root label occurs after a cut: 0 gone, 1 kept, n kept with n - 1 new channels beside it.

        Raises NetadaptError for unknown or pinned groups, indices out of range, broken steps and too few channels.
        """
        copies = np.ones(len(self.roots), np.int64)
        for name, kept in keep.items():
            group = self.group(name)
            members = self.members[name]
            indices = np.asarray(kept, np.int64)
            if indices.size and (indices.min() < 0 or indices.max() >= group.channels):
                raise NetadaptError(
                    f"group '{name}' has channels 0..{group.channels - 1}; asked to keep {indices.max()}"
                )
            chosen = np.bincount(indices, minlength=group.channels)
            if (chosen == 1).all():
                continue
            if not group.prunable:
                raise NetadaptError(f"group '{name}' cannot be pruned: {group.reason}", code="pinned")
            copies[members] = chosen
            if not np.array_equal(copies[members], chosen):
                raise NetadaptError(f"group '{name}' goes in whole steps of {group.step} tied channels")
            if chosen.sum() < group.floor:
                raise NetadaptError(f"group '{name}' keeps at least {group.floor} of {group.channels} channels")
        return copies

    def resized_shapes(self, keep: KeptIndices) -> dict[str, tuple[int, ...]]:
        """Shape of every tensor, initializers included, after a cut; nothing is built."""
        copies = self.copies(keep)
        shapes = dict(self.flat.shapes)
        for name, lines in self.axes.items():
            shape = list(shapes[name])
            for axis in {axis for axis, _ in lines}:
                found = [copies[line] for k, line in lines if k == axis]
                shape[axis] = int(np.prod(found, axis=0).sum() if len(found) > 1 else found[0].sum())
            shapes[name] = tuple(shape)
        return shapes | self.labels.shape_of_views(shapes)


def trace(folded: FoldedModel, choices: Choices | None = None) -> Trace:
    """Run the rules over all nodes in order. An op without a rule pins what reaches it; it never guesses.

    Raises NetadaptError if `choices` names something that is no graph input or output.
    """
    folded = with_own_views(rewrite(folded).model)
    flat, bodies = flatten(folded)
    owned: dict[str, list[Body]] = {}
    for body in bodies:
        owned.setdefault(body.owner, []).append(body)
    labels = Labels(flat, choices or Choices(), owned)
    roots, runs = _propagate(folded, bodies, labels)
    stuck = _stuck_whole_groups(labels, roots)
    if stuck:
        labels = Labels(flat, labels.choices, owned, even=stuck)
        roots, runs = _propagate(folded, bodies, labels)
    groups, members = find_groups(labels, roots)
    return Trace(folded, flat, bodies, labels, roots, runs, labels.pinned_sets(), groups, members)


def _propagate(folded: FoldedModel, bodies: Sequence[Body], labels: Labels) -> tuple[Array, Array]:
    """Apply the rules to all nodes of the flat model; returns the roots of all labels and `runs` (see `Trace`)."""
    proto = labels.flat.proto
    versions = {("" if o.domain == "ai.onnx" else o.domain): o.version for o in proto.opset_import}
    nodes = [
        Node(i, node, versions.get("" if node.domain == "ai.onnx" else node.domain, 1))
        for i, node in enumerate(proto.graph.node)
    ]
    _open_inputs(folded, labels)
    for name in (name for body in bodies for name in body.inputs):
        _open(name, labels)
    for node in nodes:
        _apply(node, labels)
    for value in folded.proto.graph.output:
        for factor in labels.of(value.name) if value.name not in labels.choices.resize_io else ():
            labels.pin(factor, f"reaches graph output '{value.name}'")
    _tie_shared_weights(proto, nodes, labels)
    return _tie_conv_groups(labels)


def _stuck_whole_groups(labels: Labels, roots: Array) -> frozenset[str]:
    """Convolutions of which whole conv groups would go, but none can: a shuffle ties them all, or an output all stays.

    They may keep equal counts instead.
    """
    pinned = labels.pinned_sets()
    stuck = set()
    for layer in labels.layers:
        if layer.name in labels.whole_groups:
            sets = np.unique(roots[layer.channels])
            if len(sets) == 1 or pinned[sets].all():
                stuck.add(layer.name)
    return frozenset(stuck - labels.inherited.whole)


def _tie_conv_groups(labels: Labels) -> tuple[Array, Array]:
    """Tie what keeps conv groups equal and tensors rectangles; returns the roots of all labels with and without."""
    runs: Array | None = None
    if labels.balances and labels.inherited.ties:
        _resolve(labels)
        runs = labels.ties.all_roots()
        labels.ties.tie(*labels.inherited.pairs([(layer.name, layer.channels) for layer in labels.layers]))
    uneven = tie_by_index(labels)
    _resolve(labels)
    runs = labels.ties.all_roots() if runs is None else runs
    if uneven:
        tie_in_bundles(labels, uneven)
        _resolve(labels)
    roots = labels.ties.all_roots()
    return (runs if np.array_equal(roots, runs) else roots), runs


def _open_inputs(folded: FoldedModel, labels: Labels) -> None:
    """Inputs that may be resized start labels of their own on every axis."""
    names = [value.name for value in (*folded.proto.graph.input, *folded.proto.graph.output)]
    for name in labels.choices.resize_io:
        if name not in names:
            hint = did_you_mean(name, names, f"one of {', '.join(names)}")
            raise NetadaptError(f"the model has no input or output '{name}'", hint=hint, code="usage")
        if name in folded.specs:
            _open(name, labels, jointly=True)


def _open(name: str, labels: Labels, *, jointly: bool = False) -> None:
    """Start labels on every axis of a tensor that no node produces.

    `jointly`: at every position one of its own, so that what reads it decides which axis is cut: the heads of a cache
    or the dimensions of all heads. Large tensors are labelled axis by axis, which takes no memory.
    """
    shape = labels.shape(name)
    if labels.kind(name) == "f" and jointly and prod(shape) <= LARGEST_JOINT:
        labels.set(name, [labels.fresh(prod(shape)).reshape(shape)] if prod(shape) > 1 else [])
    elif labels.kind(name) == "f" and max(shape, default=0) <= MOST_POSITIONS:
        labels.set(name, [on_axis(labels.fresh(n), k, len(shape)) for k, n in enumerate(shape) if n > 1])


def _apply(node: Node, labels: Labels) -> None:
    mark = labels.snapshot()
    apply = RULES.get((node.domain, node.op))
    try:
        if apply is None:
            raise Unsupported(f"no rule for {node.domain + '::' if node.domain else ''}{node.op}")
        _refuse_unusual_axes(node, labels)
        apply(node, labels)
    except (Unsupported, ValueError, IndexError, KeyError, TypeError) as error:
        labels.restore(mark)
        reason = str(error) if isinstance(error, Unsupported) else f"{node.op} in a form without a rule: {error}"
        for name in (*node.inputs, *node.captured):
            for factor in labels.of(name):
                labels.pin(factor, f"{reason} ('{node.name}')")
        for name in node.outputs:
            labels.factors.pop(name, None)
    labels.pin_unregarded(node)


def _refuse_unusual_axes(node: Node, labels: Labels) -> None:
    for name in filter(labels.knows, (*node.outputs, *node.inputs)):
        shape = labels.shape(name)
        if len(shape) > MOST_AXES:
            raise Unsupported(f"'{name}' has {len(shape)} axes")
        if max(shape, default=0) > MOST_POSITIONS:
            raise Unsupported(f"'{name}' has an axis of {max(shape)} positions")


def _tie_shared_weights(proto: onnx.ModelProto, nodes: list[Node], labels: Labels) -> None:
    """A matrix that several nodes use in the same role is one decision; vectors are cloned where they differ."""
    sharing: dict[str, list[tuple[int, int]]] = {}
    for node in nodes:
        for slot, name in enumerate(node.inputs):
            sharing.setdefault(name, []).append((node.index, slot))
    uses = {(use.node, use.slot): use for use in labels.uses}
    for tensor in proto.graph.initializer:
        places = sharing.get(tensor.name, [])
        if len(places) < 2 or len(tensor.dims) < 2 or labels.kind(tensor.name) != "f":
            continue
        roles: dict[tuple[str, int], list[tuple[int, int]]] = {}
        for index, slot in places:
            roles.setdefault((nodes[index].op, slot), []).append((index, slot))
        for same in roles.values():
            bound = [uses[place] for place in same if place in uses]
            if len(same) < 2 or not bound:
                continue
            merged = list(bound[0].factors)
            reason = f"'{tensor.name}' is shared"
            for use in bound[1:]:
                for factor in use.factors:
                    merged = labels.join(merged, factor, reason)
            for use_factors in [uses[p].factors if p in uses else () for p in same]:
                for factor in merged:
                    if not any(np.any((np.array(f.shape) > 1) & (np.array(factor.shape) > 1)) for f in use_factors):
                        labels.pin(factor, f"{reason} with a node that does not cut it")


def _resolve(labels: Labels) -> None:
    """Tie until what any cut keeps of every tensor is a rectangle: each factor may vary along one axis only."""
    joint = [f for factors in labels.factors.values() for f in factors if np.sum(np.array(f.shape) > 1) > 1]
    joint += [f for use in labels.uses for f in use.factors if np.sum(np.array(f.shape) > 1) > 1]
    pins, pinned = -1, np.zeros(0, bool)
    changed = True
    while changed:
        changed = False
        for factor in joint:
            if len(labels.pins) != pins:
                pins, pinned = len(labels.pins), labels.pinned_sets()
            roots = labels.ties.roots(factor)
            roots = squeeze(np.where(pinned[roots], 0, roots))  # kept in any case, like unlabelled positions
            axes = [k for k, n in enumerate(roots.shape) if n > 1]
            if len(axes) > 1:
                best = max(axes, key=lambda k: components(roots, k))
                labels.keep_axes(roots, (best,), "must stay a rectangle")
                changed = True
