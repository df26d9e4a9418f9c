"""Graph inputs and outputs (states, caches) that pin a group, and which of them have to give way together.

An LSTM's hidden units run through the state that it receives and the one that it returns: they can go if all of these
change their shapes. Labels that start at the inputs show which these are.
"""

from __future__ import annotations

from dataclasses import replace
from math import prod

from netadapt_onnx.common.grouping import grouped
from netadapt_onnx.surgery.groups import Holders, PinnedByStates
from netadapt_onnx.surgery.trace import Trace, trace

Names = tuple[str, ...]
# What a layer reads as its data is a state as well if it is small: hidden units that are multiplied by a matrix.
LARGEST_DATA = 1 << 16


def with_states(base: Trace) -> Trace:
    """The same trace, in which groups that inputs and outputs would free are `PinnedByStates`."""
    names = states(base)
    groups = tuple(
        PinnedByStates(**vars(group), resize_io=names[group.name]) if group.name in names else group
        for group in base.groups
    )
    return replace(base, groups=groups) if names else base


def states(base: Trace) -> dict[str, Names]:
    """Find the inputs and outputs that free a pinned group once all of them may change their shapes.

    Only groups that an input pins are listed, and none that runs through everything that a model receives: an image
    that is added to what the model makes of it is no state. Costs up to three more traces, and none of a model with
    one input.
    """
    inputs = [value.name for value in base.folded.proto.graph.input]
    shapes, labels = base.flat.shapes, base.labels
    resizable = [name for name in inputs if labels.kind(name) == "f" and any(n > 1 for n in shapes[name])]
    if len(inputs) < 2 or not resizable or len(base.prunable) == len(base.groups):
        return {}
    data = _read_by_layers(base)  # whose own labels may be in the way
    names = _candidates(base, [name for name in resizable if name not in data])
    small = [name for name in resizable if name not in data or prod(shapes[name]) <= LARGEST_DATA]
    if not data.isdisjoint(small):
        more = _candidates(base, small)
        names = {g: min((n[g] for n in (names, more) if g in n), key=len) for g in names.keys() | more.keys()}
    every = dict.fromkeys(name for through in names.values() for name in through)
    if not every:
        return {}
    chosen = labels.choices
    freed = trace(base.folded, replace(chosen, resize_io=(*chosen.resize_io, *every)))
    by_layer = _prunable_by_layer(freed)
    return {g.name: names[g.name] for g in base.groups if names.get(g.name) and g.layers[0] in by_layer}


def _candidates(base: Trace, resizable: list[str]) -> dict[str, Names]:
    """By pinned group the inputs and outputs that it runs through when all `resizable` inputs may be cut."""
    graph, chosen = base.folded.proto.graph, base.labels.choices
    inputs = {value.name for value in graph.input}
    outputs = [value.name for value in graph.output if value.name in base.flat.shapes]
    tensors = list(dict.fromkeys([*chosen.resize_io, *resizable, *outputs]))
    opened = trace(base.folded, replace(chosen, resize_io=tuple(tensors)))
    order = {name: i for i, name in enumerate(tensors)}
    through_by_group, by_layer = _through_by_group(opened, tensors), _prunable_by_layer(opened)
    names: dict[str, Names] = {}
    for group in base.groups:
        alike = by_layer.get(group.layers[0], ()) if not group.prunable else ()
        through = sorted({name for other in alike for name in through_by_group.get(other, ())}, key=order.__getitem__)
        if not inputs.isdisjoint(through) and not inputs <= {*through}:
            names[group.name] = tuple(name for name in through if name not in chosen.resize_io)
    return names


def _read_by_layers(base: Trace) -> set[str]:
    """The inputs that a layer with weights reads as its data before they meet anything else."""
    graph = base.folded.proto.graph
    constants = {t.name for t in graph.initializer if len(t.dims) > 1}
    small = {t.name for t in graph.initializer} - constants
    source = {value.name: value.name for value in graph.input}
    data: set[str] = set()
    for node in graph.node:
        runtime = [name for name in node.input if name and name not in constants and name not in small]
        origins = {source.get(name, "") for name in runtime}
        if len(origins) != 1 or "" in origins:
            continue
        if constants.isdisjoint(node.input):
            source.update(dict.fromkeys(node.output, origins.pop()))
        else:
            data |= origins
    return data


def _prunable_by_layer(opened: Trace) -> dict[str, list[str]]:
    """By layer the prunable groups that hold channels of it."""
    return grouped((layer, group.name) for group in opened.prunable for layer in group.layers)


def _through_by_group(opened: Trace, tensors: list[str]) -> dict[str, list[str]]:
    """By prunable group the tensors that it runs through."""
    holders = Holders({group.name: opened.members[group.name] for group in opened.prunable}, len(opened.roots))
    through = []
    for name in tensors:
        groups = {group for _, axis_labels in opened.axes.get(name, ()) for group in holders.of(axis_labels)}
        through += [(group, name) for group in groups]
    return grouped(through)
