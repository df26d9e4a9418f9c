"""Propagate labels through a model and find its groups."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import onnx

from netadapt_onnx.errors import NetadaptError, did_you_mean
from netadapt_onnx.folding import Folded
from netadapt_onnx.surgery.bodies import Body, flatten
from netadapt_onnx.surgery.groups import Group, find_groups
from netadapt_onnx.surgery.idioms import canonical
from netadapt_onnx.surgery.labels import MOST_POSITIONS, Choices, Labels, Layer, Unsupported, Use, on_axis, squeeze
from netadapt_onnx.surgery.node import Node
from netadapt_onnx.surgery.rules import RULES
from netadapt_onnx.surgery.ties import Array, components

# Per group the channels that a model has after a cut, ascending. One that is repeated gets new channels beside it.
KeptIndices = Mapping[str, Array]


@dataclass(frozen=True)
class Trace:
    """A folded model with its labels resolved. `members[group]` is the root label of each of its channels.

    `flat` is the model with its subgraphs laid out flat (`bodies.py`): what labels, uses and layers count nodes of.
    `roots` and `pinned` (whether its set must stay) are indexed by label.
    """

    folded: Folded
    flat: Folded
    bodies: tuple[Body, ...]
    labels: Labels
    roots: Array
    pinned: Array
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
                for i in np.unique(group_of_root[line]).tolist():
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
        found: dict[str, list[tuple[int, Array]]] = {}
        for name, factors in self.labels.factors.items():
            found[name] = [self.line_of(f) for f in factors]
        for use in self.labels.uses:
            lines = found.setdefault(use.constant, [])
            for factor in use.factors:
                axis, line = self.line_of(factor)
                if not any(k == axis and np.array_equal(line, other) for k, other in lines):
                    lines.append((axis, line))
        return {name: tuple(lines) for name, lines in found.items()}

    def line_of(self, factor: Array) -> tuple[int, Array]:
        """The one axis along which a factor can be cut, and the root labels along it.

        Pinned labels may still differ along other axes: like unlabelled positions they are kept in any case.
        """
        roots = self.roots[factor]
        shape = squeeze(np.where(self.pinned[roots], 0, roots)).shape
        axis = int(np.argmax(shape if max(shape) > 1 else roots.shape))
        for k in range(roots.ndim):
            if k != axis:
                roots = roots.take([0], axis=k)
        return axis, roots.reshape(-1)

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


def trace(folded: Folded, choices: Choices | None = None) -> Trace:
    """Run the rules over all nodes in order. An op without a rule pins what reaches it; it never guesses.

    Raises NetadaptError if `choices` names something that is no graph input or output.
    """
    folded = canonical(folded)
    flat, bodies = flatten(folded)
    owned: dict[str, list[Body]] = {}
    for body in bodies:
        owned.setdefault(body.owner, []).append(body)
    labels = Labels(flat, choices or Choices(), owned)
    versions = {("" if o.domain == "ai.onnx" else o.domain): o.version for o in flat.proto.opset_import}
    nodes = [
        Node(i, proto, versions.get("" if proto.domain == "ai.onnx" else proto.domain, 1))
        for i, proto in enumerate(flat.proto.graph.node)
    ]
    _open_inputs(folded, labels)
    for name in (name for body in bodies for name in body.inputs):
        _open(name, labels)
    for node in nodes:
        _apply(node, labels)
    for value in folded.proto.graph.output:
        for factor in labels.of(value.name) if value.name not in labels.choices.resize_io else ():
            labels.pin(factor, f"reaches graph output '{value.name}'")
    _tie_shared_weights(flat.proto, nodes, labels)
    _resolve(labels)
    roots = labels.ties.roots(np.arange(len(labels.ties)))
    groups, members = find_groups(labels, roots)
    return Trace(folded, flat, bodies, labels, roots, pinned_sets(labels), groups, members)


def _open_inputs(folded: Folded, labels: Labels) -> None:
    """Inputs that may be resized start labels of their own on every axis."""
    names = [value.name for value in (*folded.proto.graph.input, *folded.proto.graph.output)]
    for name in labels.choices.resize_io:
        if name not in names:
            hint = did_you_mean(name, names, f"one of {', '.join(names)}")
            raise NetadaptError(f"the model has no input or output '{name}'", hint=hint, code="usage")
        if name in folded.specs:
            _open(name, labels)


def _open(name: str, labels: Labels) -> None:
    """Start labels on every axis of a tensor that no node produces."""
    shape = labels.shape(name)
    if labels.kind(name) == "f" and max(shape, default=0) <= MOST_POSITIONS:
        labels.set(name, [on_axis(labels.fresh(n), k, len(shape)) for k, n in enumerate(shape) if n > 1])


def _apply(node: Node, labels: Labels) -> None:
    mark = labels.snapshot()
    apply = RULES.get((node.domain, node.op))
    try:
        if apply is None:
            raise Unsupported(f"no rule for {node.domain + '::' if node.domain else ''}{node.op}")
        _refuse_long_axes(node, labels)
        apply(node, labels)
    except (Unsupported, ValueError, IndexError, KeyError, TypeError) as error:
        labels.restore(mark)
        reason = str(error) if isinstance(error, Unsupported) else f"{node.op} in a form without a rule: {error}"
        for name in (*node.inputs, *node.captured):
            for factor in labels.of(name):
                labels.pin(factor, f"{reason} ('{node.name}')")
        for name in node.outputs:
            labels.factors.pop(name, None)


def _refuse_long_axes(node: Node, labels: Labels) -> None:
    for name in (*node.outputs, *node.inputs):
        if labels.knows(name) and max(labels.shape(name), default=0) > MOST_POSITIONS:
            raise Unsupported(f"'{name}' has an axis of {max(labels.shape(name))} positions")


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
                pins, pinned = len(labels.pins), pinned_sets(labels)
            roots = labels.ties.roots(factor)
            roots = squeeze(np.where(pinned[roots], 0, roots))  # kept in any case, like unlabelled positions
            axes = [k for k, n in enumerate(roots.shape) if n > 1]
            if len(axes) > 1:
                best = max(axes, key=lambda k: components(roots, k))
                labels.keep_axes(roots, (best,), "must stay a rectangle")
                changed = True


def pinned_sets(labels: Labels) -> Array:
    """For each root label whether its set is pinned, as a boolean array indexed by label."""
    pinned = np.zeros(len(labels.ties), bool)
    for pin in labels.pins:
        pinned[labels.ties.roots(pin.labels)] = True
    return pinned
