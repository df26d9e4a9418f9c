"""Graph inputs and outputs (states, caches) that pin a group, and which of them have to give way together.

An LSTM's hidden units run through the state that it receives and the one that it returns: they can go if all of these
change their shapes. Which these are, labels tell that start at every input.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from netadapt_onnx.surgery.groups import Group, PinnedByStates
from netadapt_onnx.surgery.trace import Trace, trace

Names = tuple[str, ...]


def with_states(found: Trace) -> Trace:
    """The same trace, in which groups that inputs and outputs would free are `PinnedByStates`."""
    names = states(found)
    groups = tuple(
        PinnedByStates(**vars(group), resize_io=names[group.name]) if group.name in names else group
        for group in found.groups
    )
    return replace(found, groups=groups) if names else found


def states(found: Trace) -> dict[str, Names]:
    """By pinned group the inputs and outputs that free it once all of them may change their shapes.

    Only groups that an input pins are listed, and none that runs through everything that a model receives: an image
    that is added to what the model makes of it is no state. Costs two more traces, where there is more than one input.
    """
    graph = found.folded.proto.graph
    inputs = [value.name for value in graph.input]
    resizable = [
        name for name in inputs if found.labels.kind(name) == "f" and any(n > 1 for n in found.flat.shapes[name])
    ]
    if len(inputs) < 2 or not resizable or len(found.prunable) == len(found.groups):
        return {}
    outputs = [value.name for value in graph.output if value.name in found.flat.shapes]
    places = list(dict.fromkeys([*resizable, *outputs]))
    chosen = found.labels.choices
    opened = trace(found.folded, replace(chosen, resize_io=tuple(places)))
    names: dict[str, Names] = {}
    for group in found.groups:
        members = [opened.members[g.name] for g in _of_same_layer(opened, group)] if not group.prunable else []
        through = tuple(name for name in places if any(_runs_through(opened, name, line) for line in members))
        if not {*through}.isdisjoint(inputs) and not {*inputs} <= {*through}:
            names[group.name] = tuple(name for name in through if name not in chosen.resize_io)
    every = dict.fromkeys(name for through in names.values() for name in through)
    freed = trace(found.folded, replace(chosen, resize_io=(*chosen.resize_io, *every))) if every else found
    return {
        group.name: names[group.name]
        for group in found.groups
        if names.get(group.name) and _of_same_layer(freed, group)
    }


def _of_same_layer(opened: Trace, group: Group) -> list[Group]:
    """The prunable groups of another trace that hold channels of the layer a group is named after."""
    return [g for g in opened.prunable if group.layers[0] in g.layers]


def _runs_through(opened: Trace, name: str, members: np.ndarray) -> bool:
    return any(np.isin(line, members).any() for _, line in opened.axes.get(name, ()))
