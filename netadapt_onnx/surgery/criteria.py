"""Which channels go: importance of every channel of a group."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Mapping

import numpy as np

from netadapt_onnx.errors import NetadaptError, did_you_mean
from netadapt_onnx.surgery.groups import Group
from netadapt_onnx.surgery.magnitude import layer_sums, slice_sums
from netadapt_onnx.surgery.ties import Array
from netadapt_onnx.surgery.trace import Trace

# Importance of each channel of a group, (channels,); the largest stay.
Criterion = Callable[[Trace, Group], np.ndarray]


def _summed_over_layers(trace: Trace, group: Group, power: int) -> np.ndarray:
    """Sum of |w|^power over the producers' slices of each channel, (channels,); channels tied together share it."""
    members = trace.members[group.name]
    total = np.zeros(len(trace.roots))
    for layer in trace.labels.layers:
        if layer.name not in group.layers:
            continue
        np.add.at(total, trace.roots[layer.line], layer_sums(trace, layer, power))
    result: np.ndarray = total[members]
    return result


def l2(trace: Trace, group: Group) -> np.ndarray:
    """L2 norm over the producers' slices of a channel (NetAdapt, Yang et al., ECCV 2018)."""
    norms: np.ndarray = np.sqrt(_summed_over_layers(trace, group, 2))
    return norms


def l1(trace: Trace, group: Group) -> np.ndarray:
    """L1 norm over the producers' slices of a channel (Li et al., ICLR 2017)."""
    return _summed_over_layers(trace, group, 1)


def group_l2(trace: Trace, group: Group) -> np.ndarray:
    """L2 norm over all coupled slices of a channel, consumers included (Fang et al., CVPR 2023)."""
    total = np.zeros(len(trace.roots))
    ours = np.zeros(len(trace.roots), bool)
    ours[trace.members[group.name]] = True
    seen: set[tuple[str, int]] = set()
    for use in trace.labels.uses:
        for axis, line in map(trace.line_of, use.factors):
            values = trace.labels.value(use.constant)
            blocks = use.blocks if axis == 1 else None
            line = line if blocks is None else trace.roots[blocks]
            if (use.constant, axis) in seen or values.ndim < 2 or values.dtype.kind != "f" or not ours[line].any():
                continue
            seen.add((use.constant, axis))
            if blocks is None:
                np.add.at(total, line, slice_sums(values, axis, 2))
            else:
                parts = np.split(values, len(blocks))
                np.add.at(total, line, np.stack([slice_sums(part, axis, 2) for part in parts]))
    norms: np.ndarray = np.sqrt(total[trace.members[group.name]])
    return norms


def fpgm(trace: Trace, group: Group) -> np.ndarray:
    """Distance of a filter to all others of its layer: those near the geometric median go (He et al., CVPR 2019)."""
    total = np.zeros(len(trace.roots))
    for layer in trace.labels.layers:
        if layer.name not in group.layers:
            continue
        filters = np.moveaxis(trace.labels.value(layer.weight), layer.axis, 0).astype(np.float64)
        filters = filters.reshape(len(filters), -1)
        squares = (filters**2).sum(axis=1)
        distances = np.sqrt(np.maximum(squares[:, None] + squares[None] - 2 * filters @ filters.T, 0))
        np.add.at(total, trace.roots[layer.line], distances.sum(axis=1))
    found: np.ndarray = total[trace.members[group.name]]
    return found


def bn_scale(trace: Trace, group: Group) -> np.ndarray:
    """Magnitude of the BatchNorm scales of a channel (Liu et al., ICCV 2017). NetadaptError where there is none."""
    total = np.zeros(len(trace.roots))
    nodes = trace.flat.proto.graph.node
    scales = [use for use in trace.labels.uses if nodes[use.node].op_type == "BatchNormalization" and use.slot == 1]
    ours = trace.members[group.name]
    met = False
    for use in scales:
        _, line = trace.line_of(use.factors[0])
        met = met or bool(np.isin(line, ours).any())
        np.add.at(total, line, np.abs(trace.labels.value(use.constant).astype(np.float64)))
    if not met:
        raise NetadaptError(
            f"group '{group.name}' has no BatchNorm to take the scales of",
            hint="choose another criterion, or export the model with its BatchNorms (`netadapt-onnx export`)",
            code="no-batchnorm",
        )
    found: np.ndarray = total[ours]
    return found


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
# What inputs tell besides (`training/measured.py`): gradients, or activations.
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
