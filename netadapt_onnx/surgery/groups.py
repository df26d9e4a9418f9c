"""From tied labels to groups: what is pruned as one decision."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from netadapt_onnx.common.grouping import grouped
from netadapt_onnx.graph.axis_arrays import Array
from netadapt_onnx.surgery.labels import Labels


@dataclass(frozen=True)
class Group:
    """Channels that are pruned as one decision.

    Attributes:
        name: The first layer whose output channels it holds.
        channels: How many there are on that layer.
        step: The group goes in multiples of this many channels.
        floor: At least so many channels stay.
        layers: All layers whose outputs belong to it.
        prunable: Whether a cut may name it.
        reason: Why not, if it may not.
    """

    name: str
    channels: int
    step: int
    floor: int
    layers: tuple[str, ...]
    prunable: bool
    reason: str | None


@dataclass(frozen=True)
class PinnedByStates(Group):
    """A group that is free once all of the model's inputs and outputs `resize_io` may change their shapes."""

    resize_io: tuple[str, ...]


def resize_io_of(group: Group) -> tuple[str, ...]:
    """The inputs and outputs that free a pinned group if all of them may change their shapes; () if none do."""
    return group.resize_io if isinstance(group, PinnedByStates) else ()


def find_groups(labels: Labels, roots: Array) -> tuple[tuple[Group, ...], dict[str, Array]]:
    """Groups in topological order, and for each the root label of its channels in the naming layer's order.

    A group's labels share their coverage: they occur equally often along the same axes of the same tensors, so that
    importances compare and no tensor runs empty.
    """
    coverage = _coverage(labels, roots)
    reasons = _pinned(labels, roots)
    pinned = np.zeros(len(roots), bool)
    pinned[list(reasons)] = True
    named: set[tuple[int, bool]] = set()
    members: dict[str, Array] = {}
    groups_of_layer: Counter[str] = Counter()
    for layer in labels.layers:
        of_layer = roots[layer.channels]
        keys = list(zip(coverage[of_layer].tolist(), pinned[of_layer].tolist(), strict=True))
        for key in [key for key in dict.fromkeys(keys) if key not in named]:
            groups_of_layer[layer.name] += 1
            number = groups_of_layer[layer.name]
            name = layer.name if number == 1 else f"{layer.name}#{number}"
            named.add(key)
            members[name] = of_layer[np.array([k == key for k in keys])]
    holders = Holders(members, len(roots))
    layers = grouped((name, layer.name) for layer in labels.layers for name in holders.of(roots[layer.channels]))
    groups = []
    for name, channels in members.items():
        sets, counts = np.unique(channels, return_counts=True)
        step = int(counts.max())
        reason = next((reasons[int(r)] for r in channels if int(r) in reasons), None)
        if reason is None and len(sets) == 1:
            reason = "all its channels are tied together"
        groups.append(
            Group(name, len(channels), step, step, tuple(dict.fromkeys(layers[name])), reason is None, reason)
        )
    return tuple(groups), members


def _coverage(labels: Labels, roots: Array) -> Array:
    """A number per root label that is equal for labels with the same occurrences (a sum of random 64-bit numbers)."""
    rng = np.random.default_rng(0)
    total = np.zeros(len(roots), np.uint64)
    occurrences = [factor for factors in labels.factors.values() for factor in factors]
    occurrences += [factor for use in labels.uses for factor in use.factors]
    occurrences += [layer.channels for layer in labels.layers]
    with np.errstate(over="ignore"):
        for factor in occurrences:
            present, counts = np.unique(roots[factor], return_counts=True)
            total[present] += rng.integers(1, 2**63, dtype=np.uint64) * counts.astype(np.uint64)
    return total.view(np.int64)


def _pinned(labels: Labels, roots: Array) -> dict[int, str]:
    """The first reason for each pinned root."""
    reasons: dict[int, str] = {}
    for pin in labels.pins:
        for root in np.unique(roots[pin.labels]).tolist():
            reasons.setdefault(root, pin.reason)
    return reasons


class Holders:
    """Which groups hold a label, looked up for whole arrays of root labels."""

    def __init__(self, members: Mapping[str, Array], labels: int) -> None:
        """`members`: by group the root labels of its channels; of so many `labels` in all."""
        self._names = list(members)
        self._numbers = np.full(labels, -1)
        for number, channels in enumerate(members.values()):
            self._numbers[channels] = number

    def count(self, roots: Array) -> tuple[tuple[str, int], ...]:
        """The groups that these root labels belong to, in their order, each with how many of them."""
        numbers, counts = np.unique(self._numbers[roots], return_counts=True)
        pairs = zip(numbers.tolist(), counts.tolist(), strict=True)
        return tuple((self._names[number], count) for number, count in pairs if number >= 0)

    def of(self, roots: Array) -> list[str]:
        """The groups that any of these root labels belongs to, in their order."""
        return [self._names[number] for number in np.unique(self._numbers[roots]).tolist() if number >= 0]
