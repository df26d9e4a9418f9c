"""Which channels go: importance of every channel of a group."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Mapping

import numpy as np

from netadapt_onnx.errors import NetadaptError, did_you_mean
from netadapt_onnx.surgery.criteria.magnitude import layer_sums, slice_sums
from netadapt_onnx.surgery.groups import Group
from netadapt_onnx.surgery.trace import Trace
from netadapt_onnx.surgery.union_find import Array

# Importance of each channel of a group, (channels,); the largest stay.
Criterion = Callable[[Trace, Group], np.ndarray]


class ChannelScores:
    """Sums what is said of the root labels of one group; of a model of many groups nothing else is looked at."""

    def __init__(self, trace: Trace, group: Group) -> None:
        self._roots, self._channel = np.unique(trace.members[group.name], return_inverse=True)
        self._total = np.zeros(len(self._roots))

    def add(self, line: Array, values: np.ndarray) -> None:
        """Add one value per position of a line of root labels; those of other groups are left out."""
        at = np.minimum(np.searchsorted(self._roots, line), len(self._roots) - 1)
        ours = self._roots[at] == line
        np.add.at(self._total, at[ours], values[ours])

    @property
    def by_channel(self) -> np.ndarray:
        """The sum of each channel of the group, (channels,); channels tied together share theirs."""
        total: np.ndarray = self._total[self._channel]
        return total


def _summed_over_layers(trace: Trace, group: Group, power: int) -> np.ndarray:
    """Sum of |w|^power over the producers' slices of each channel, (channels,); channels tied together share it."""
    scores = ChannelScores(trace, group)
    for layer in trace.layers_of(group):
        scores.add(trace.roots[layer.line], layer_sums(trace, layer, power))
    return scores.by_channel


def l2(trace: Trace, group: Group) -> np.ndarray:
    """L2 norm over the producers' slices of a channel (NetAdapt, Yang et al., ECCV 2018)."""
    norms: np.ndarray = np.sqrt(_summed_over_layers(trace, group, 2))
    return norms


def l1(trace: Trace, group: Group) -> np.ndarray:
    """L1 norm over the producers' slices of a channel (Li et al., ICLR 2017)."""
    return _summed_over_layers(trace, group, 1)


def group_l2(trace: Trace, group: Group) -> np.ndarray:
    """L2 norm over all coupled slices of a channel, consumers included (Fang et al., CVPR 2023)."""
    scores = ChannelScores(trace, group)
    seen: set[tuple[str, int]] = set()
    for use, axis, line in trace.uses_of(group):
        values = trace.labels.value(use.constant)
        if (use.constant, axis) in seen or values.ndim < 2 or values.dtype.kind != "f":
            continue
        seen.add((use.constant, axis))
        blocks = use.blocks if axis == 1 else None
        if blocks is None:
            scores.add(line, slice_sums(values, axis, 2))
        else:
            parts = np.split(values, len(blocks))
            sums = np.stack([slice_sums(part, axis, 2) for part in parts])
            scores.add(trace.roots[blocks].reshape(-1), sums.reshape(-1))
    norms: np.ndarray = np.sqrt(scores.by_channel)
    return norms


def fpgm(trace: Trace, group: Group) -> np.ndarray:
    """Distance of a filter to all others of its layer: those near the geometric median go (He et al., CVPR 2019)."""
    scores = ChannelScores(trace, group)
    for layer in trace.layers_of(group):
        filters = np.moveaxis(trace.labels.value(layer.weight), layer.axis, 0).astype(np.float64)
        filters = filters.reshape(len(filters), -1)
        squares = (filters**2).sum(axis=1)
        distances = np.sqrt(np.maximum(squares[:, None] + squares[None] - 2 * filters @ filters.T, 0))
        scores.add(trace.roots[layer.line], distances.sum(axis=1))
    return scores.by_channel


def bn_scale(trace: Trace, group: Group) -> np.ndarray:
    """Magnitude of the BatchNorm scales of a channel (Liu et al., ICCV 2017). NetadaptError where there is none."""
    scores = ChannelScores(trace, group)
    nodes = trace.flat.proto.graph.node
    uses = trace.uses_of(group)
    scales = [u for u in uses if nodes[u[0].node].op_type == "BatchNormalization" and u[0].slot == 1]
    for use, _, line in scales:
        scores.add(line, np.abs(trace.labels.value(use.constant).astype(np.float64)))
    if not scales:
        raise NetadaptError(
            f"group '{group.name}' has no BatchNorm to take the scales of",
            hint="choose another criterion, or export the model with its BatchNorms (`netadapt-onnx export`)",
            code="no-batchnorm",
        )
    return scores.by_channel


def first(trace: Trace, group: Group) -> np.ndarray:
    """Keep the first channels: for known answers."""
    return -np.arange(group.channels, dtype=np.float64)


def random(trace: Trace, group: Group) -> np.ndarray:
    """A fixed random order per group name: the baseline every other criterion must beat."""
    return np.random.default_rng(zlib.crc32(group.name.encode())).random(group.channels)


# What weights alone tell.
CRITERIA: dict[str, Criterion] = {
    "l2": l2,
    "l1": l1,
    "group-l2": group_l2,
    "fpgm": fpgm,
    "bn-scale": bn_scale,
    "random": random,
    "first": first,
}
# What inputs tell besides (`training/criteria.py`): gradients, or activations.
MEASURED = ("taylor", "fisher", "activation")


def criterion(name: str | Criterion) -> Criterion:
    """A criterion by name, or the caller's own function."""
    if not isinstance(name, str):
        return name
    if name in MEASURED:
        raise NetadaptError(f"criterion '{name}' looks at inputs", hint="give --data with x_train", code="usage")
    if name not in CRITERIA:
        known = (*CRITERIA, *MEASURED)
        raise NetadaptError(
            f"no criterion '{name}'", hint=did_you_mean(name, known, f"one of {', '.join(known)}"), code="usage"
        )
    return CRITERIA[name]


def importance(trace: Trace, by: str | Criterion = "l2", *, normalised: bool = False) -> dict[str, np.ndarray]:
    """Importance (channels,) of every prunable group; normalised, divided by its mean size, so that groups compare."""
    found = {group.name: _scores(trace, group, criterion(by)) for group in trace.prunable}
    if not normalised:
        return found
    return {name: scores / (float(np.abs(scores).mean()) or 1.0) for name, scores in found.items()}


def class_totals(trace: Trace, group: Group, scores: np.ndarray) -> np.ndarray:
    """The summed scores of each class of tied channels, (channels / step,)."""
    classes, index = np.unique(trace.members[group.name], return_inverse=True)
    totals: np.ndarray = np.bincount(index, weights=scores, minlength=len(classes))
    return totals


def select(trace: Trace, counts: Mapping[str, int], by: str | Criterion = "l2") -> dict[str, Array]:
    """The channels that stay when each group keeps `counts[group]`, ascending; whole classes of tied channels.

    A group asked to keep all its channels is left out; one asked for more repeats its last channels (`resize` then adds
    new ones). Raises NetadaptError if a count breaks a group's step.
    """
    keep: dict[str, Array] = {}
    measure = criterion(by)
    for name, count in counts.items():
        group = trace.group(name)
        if count % group.step and count != group.channels:
            raise NetadaptError(f"group '{name}' goes in steps of {group.step}; {count} is no multiple of it")
        if count == group.channels:
            continue
        if count > group.channels:
            keep[name] = _widened(trace.members[name], (count - group.channels) // group.step)
            continue
        totals = class_totals(trace, group, _scores(trace, group, measure))
        classes, index = np.unique(trace.members[name], return_inverse=True)
        position = np.full(len(classes), group.channels)
        np.minimum.at(position, index, np.arange(group.channels))
        order = np.lexsort((position, -totals))  # ties go to the earlier channel
        chosen = np.zeros(len(classes), bool)
        chosen[order[: count // group.step]] = True
        keep[name] = np.flatnonzero(chosen[index])
    return keep


def _widened(members: Array, added: int) -> Array:
    """All channels, those of the last class of tied ones `added` times more."""
    times = np.where(members == members[-1], 1 + added, 1)
    return np.repeat(np.arange(len(members)), times)


def _scores(trace: Trace, group: Group, measure: Criterion) -> np.ndarray:
    scores: np.ndarray = np.asarray(measure(trace, group), np.float64)
    if scores.shape != (group.channels,):
        raise NetadaptError(
            f"the criterion returned shape {scores.shape} for group '{group.name}'; expected ({group.channels},)"
        )
    return scores
