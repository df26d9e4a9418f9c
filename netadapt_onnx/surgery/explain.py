"""Why a group is what it is: where its channels occur, and what pins them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from netadapt_onnx.errors import NetadaptError, did_you_mean
from netadapt_onnx.surgery.groups import Group
from netadapt_onnx.surgery.trace import Trace


@dataclass(frozen=True)
class Occurrence:
    """Where a group occurs: `positions` of the `length` along one axis of a tensor belong to it."""

    tensor: str
    axis: int
    positions: int
    length: int


@dataclass(frozen=True)
class Explanation:
    """Why a group is what it is.

    Attributes:
        group: The group.
        constants: The constants that a cut of it changes.
        tensors: The runtime tensors that a cut of it changes.
        pins: Every reason that pins it.
    """

    group: Group
    constants: tuple[Occurrence, ...]
    tensors: tuple[Occurrence, ...]
    pins: tuple[str, ...]


def explain(trace: Trace, name: str) -> tuple[Explanation, ...]:
    """Explain the groups of a name: a group itself, those of a layer's output channels, or those along a tensor's axes.

    Raises:
        NetadaptError: If the model has nothing of that name; the hint holds the nearest names.
    """
    return tuple(_explained(trace, group) for group in _groups(trace, name))


def _groups(trace: Trace, name: str) -> list[Group]:
    groups = [group for group in trace.groups if name in (group.name, trace.paths[group.name])]
    groups = groups or [g for g in trace.groups if any(name in (layer, trace.paths[layer]) for layer in g.layers)]
    along = [axis_labels for _, axis_labels in trace.axes.get(name, ())]
    groups = groups or [g for g in trace.groups if any(np.isin(part, trace.members[g.name]).any() for part in along)]
    if groups:
        return groups
    names = {g.name for g in trace.groups} | {n for g in trace.groups for n in g.layers} | set(trace.axes)
    if name in trace.flat.shapes:
        raise NetadaptError(f"tensor '{name}' carries no channels that could be cut", code="unknown-group")
    stays = next((n for n in trace.flat.untraced if f"{name}/".startswith(f"{n}/")), None)
    if stays is not None:
        raise NetadaptError(f"'{stays}' stays as it is: {trace.flat.untraced[stays]}", code="unknown-group")
    hint = did_you_mean(name, sorted(names), "`netadapt-onnx inspect MODEL` lists groups and layers")
    raise NetadaptError(f"the model has no group, layer or tensor '{name}'", hint=hint, code="unknown-group")


def _explained(trace: Trace, group: Group) -> Explanation:
    members = trace.members[group.name]
    initializers = {t.name for t in trace.flat.proto.graph.initializer}
    occurrences = [
        Occurrence(tensor, axis, int(hits.sum()), len(axis_labels))
        for tensor, pairs in trace.axes.items()
        for axis, axis_labels in pairs
        if (hits := np.isin(axis_labels, members)).any()
    ]
    pins = [pin.reason for pin in trace.labels.pins if np.isin(trace.roots[pin.labels], members).any()]
    return Explanation(
        group,
        tuple(each for each in occurrences if each.tensor in initializers),
        tuple(each for each in occurrences if each.tensor not in initializers),
        tuple(dict.fromkeys(pins)),
    )
