"""A model with its labels and groups: what every part of surgery starts from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property, reduce

import numpy as np
from numpy.typing import NDArray
from onnx import TensorProto

from netadapt_onnx.common.grouping import grouped
from netadapt_onnx.errors import NetadaptError, did_you_mean
from netadapt_onnx.graph.axis_arrays import Array, squeeze
from netadapt_onnx.graph.fold_shapes import fold
from netadapt_onnx.graph.folded_model import FoldedModel
from netadapt_onnx.graph.model import Model
from netadapt_onnx.graph.nodes import opset_version
from netadapt_onnx.graph.passes.pipeline import rewrite
from netadapt_onnx.graph.readable_path import readable_paths
from netadapt_onnx.graph.shapes import Shape, Shapes
from netadapt_onnx.surgery.cut import AxesByTensor, Cut, KeptIndices
from netadapt_onnx.surgery.flatten_subgraphs import FlatSubgraph, flatten
from netadapt_onnx.surgery.groups import Group, Holders, find_groups
from netadapt_onnx.surgery.labels import Choices, Labels
from netadapt_onnx.surgery.propagate import propagate, stuck_whole_groups
from netadapt_onnx.surgery.records import Layer, Use
from netadapt_onnx.surgery.views import with_own_views


@dataclass(frozen=True)
class Trace:
    """A folded model with its labels resolved.

    Attributes:
        folded: The model.
        flat: The model with its subgraphs laid out flat (`flatten_subgraphs.py`): the nodes of labels, uses and layers.
        subgraphs: The subgraphs that were laid out flat, innermost first.
        labels: The labels of every tensor, and what the rules recorded.
        roots: The root of each label, (labels,).
        runs: The roots as they were before channels of different conv groups were tied for the sake of equal counts
            (`conv_groups.py`), (labels,).
        pinned: Whether the set of each label must stay, (labels,).
        groups: The groups in topological order.
        members: By group the root label of each of its channels, (channels,).
    """

    folded: FoldedModel
    flat: FoldedModel
    subgraphs: tuple[FlatSubgraph, ...]
    labels: Labels
    roots: Array
    runs: Array
    pinned: NDArray[np.bool_]
    groups: tuple[Group, ...]
    members: Mapping[str, Array]

    def group(self, name: str) -> Group:
        """A group by its name, or by its path in the network; NetadaptError with the nearest names if there is none."""
        group = self._group_of_name.get(name) or self._group_of_path.get(name)
        if group is not None:
            return group
        hint = did_you_mean(name, [g.name for g in self.groups], "`netadapt-onnx inspect MODEL` lists them")
        raise NetadaptError(f"the model has no group '{name}'", hint=hint, code="unknown-group")

    @cached_property
    def _group_of_name(self) -> dict[str, Group]:
        return {group.name: group for group in reversed(self.groups)}

    @cached_property
    def _group_of_path(self) -> dict[str, Group]:
        return {self.paths[group.name]: group for group in reversed(self.groups)}

    @cached_property
    def paths(self) -> Mapping[str, str]:
        """Where each node and group stands in the network, as people who wrote it say, by name (`readable_path.py`)."""
        paths = readable_paths(self.flat.proto.graph.node)
        for group in self.groups:  # of several groups of one layer all but the first have a number
            layer, _, number = group.name.rpartition("#")
            paths.setdefault(group.name, f"{paths[layer]}#{number}" if layer in paths else group.name)
        return paths

    @cached_property
    def _layers_of_name(self) -> dict[str, list[Layer]]:
        return grouped((layer.name, layer) for layer in self.labels.layers)

    @cached_property
    def _uses_of_name(self) -> dict[str, list[tuple[Use, int, Array]]]:
        holders = Holders(self.members, len(self.roots))
        uses = []
        for use in self.labels.uses:
            for axis, axis_labels in map(self.axis_labels_of, use.factors):
                roots = axis_labels if use.blocks is None or axis != 1 else self.roots[use.blocks]
                uses += [(name, (use, axis, axis_labels)) for name in holders.of(roots)]
        return grouped(uses)

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
    def axes(self) -> AxesByTensor:
        """For each labelled tensor: the axes that a cut changes, and the root label of every position along them."""
        return self._axes(self.roots)

    @cached_property
    def run_axes(self) -> AxesByTensor:
        """The same with `runs` for roots."""
        return self.axes if self.runs is self.roots else self._axes(self.runs)

    def _axes(self, numbers: Array) -> AxesByTensor:
        axes: dict[str, list[tuple[int, Array]]] = {}
        for name, factors in self.labels.factors.items():
            axes[name] = [(axis, numbers[labels]) for axis, labels in map(self._labels_along, factors)]
        for use in self.labels.uses:
            of_constant = axes.setdefault(use.constant, [])
            for factor in use.factors:
                axis, labels = self._labels_along(factor)
                if not any(k == axis and np.array_equal(numbers[labels], other) for k, other in of_constant):
                    of_constant.append((axis, numbers[labels]))
        return {name: tuple(pairs) for name, pairs in axes.items()}

    def axis_labels_of(self, factor: Array) -> tuple[int, Array]:
        """The one axis along which a factor can be cut, and the root labels along it."""
        axis, labels = self._labels_along(factor)
        return axis, self.roots[labels]

    def runs_of(self, factor: Array) -> Array:
        """The runs along that axis."""
        runs: Array = self.runs[self._labels_along(factor)[1]]
        return runs

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

        Raises:
            NetadaptError: For unknown or pinned groups, indices out of range, broken steps and too few channels.
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

    def cut(self, keep: KeptIndices) -> Cut:
        """What a cut keeps of every tensor; nothing is built. Raises as `copies` does."""
        copies = self.copies(keep)
        opset = opset_version(self.flat.proto)
        shapes = self._shapes_after(copies)
        return Cut(copies, self.flat.shapes, shapes, self.axes, self.run_axes, opset, self.folded.batch_size)

    def resized_shapes(self, keep: KeptIndices) -> dict[str, Shape]:
        """Shape of every tensor, initializers included, after a cut; nothing is built. Raises as `copies` does."""
        return self._shapes_after(self.copies(keep))

    def _shapes_after(self, copies: Array) -> dict[str, Shape]:
        labels, axes = self._cut_axes
        lengths = [int(reduce(np.multiply, (copies[one] for one in roots)).sum()) for roots in labels]
        shapes = dict(self.flat.shapes)
        for name, pairs in axes.items():
            shape = list(shapes[name])
            for axis, number in pairs:
                shape[axis] = lengths[number]
            shapes[name] = tuple(shape)
        return shapes | self.labels.shape_of_views(shapes)

    @cached_property
    def _cut_axes(self) -> tuple[list[tuple[Array, ...]], dict[str, list[tuple[int, int]]]]:
        """The root labels of all axes that a cut changes, equal ones once; and by tensor its axes, with their number.

        A group's labels lie along dozens of axes, and a search asks for thousands of shapes.
        """
        labels: list[tuple[Array, ...]] = []
        numbers: dict[tuple[bytes, ...], int] = {}
        axes: dict[str, list[tuple[int, int]]] = {}
        for name, pairs in self.axes.items():
            axes[name] = []
            for axis, roots in grouped(pairs).items():
                key = tuple(one.tobytes() for one in roots)
                if numbers.setdefault(key, len(labels)) == len(labels):
                    labels.append(tuple(roots))
                axes[name].append((axis, numbers[key]))
        return labels, axes


def trace(folded: FoldedModel, choices: Choices | None = None) -> Trace:
    """Run the rules over all nodes in order. An op without a rule pins what reaches it; it never guesses.

    Args:
        folded: The model, with constants folded and all shapes inferred.
        choices: What the model's structure leaves open.

    Returns:
        The model with its labels resolved and its groups.

    Raises:
        NetadaptError: If `choices` names something that is no graph input or output.
    """
    folded = with_own_views(rewrite(folded).model)
    flat, subgraphs = flatten(folded)
    by_owner = grouped((subgraph.owner, subgraph) for subgraph in subgraphs)
    labels = Labels(flat, choices or Choices(), by_owner)
    roots, runs = propagate(folded, subgraphs, labels)
    stuck = stuck_whole_groups(labels, roots)
    if stuck:
        labels = Labels(flat, labels.choices, by_owner, even=stuck)
        roots, runs = propagate(folded, subgraphs, labels)
    groups, members = find_groups(labels, roots)
    return Trace(folded, flat, subgraphs, labels, roots, runs, labels.pinned_sets(), groups, members)


def trace_model(
    model: Model,
    shapes: Shapes | None = None,
    batch_size: int = 1,
    choices: Choices | None = None,
    *,
    in_place: bool = False,
) -> Trace:
    """Fold and trace a model.

    Args:
        model: The model; with `in_place` its own proto is folded, which spares a copy of its weights.
        shapes: Those of inputs with dynamic axes beyond the first.
        batch_size: The length of dynamic first axes.
        choices: What surgery leaves to the user.
        in_place: Whether the model is changed.

    Raises:
        NetadaptError: If the model is wrong, or an axis needs `shapes`.
    """
    folded = fold(model.proto, shapes, batch_size, in_place=in_place)
    is_outside = any(tensor.data_location == TensorProto.EXTERNAL for tensor in folded.proto.graph.initializer)
    return trace(replace(folded, file=model.path) if is_outside else folded, choices)
