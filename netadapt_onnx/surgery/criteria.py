"""Which channels go: importance of every channel of a group."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Mapping

import numpy as np

from netadapt_onnx.errors import NetadaptError
from netadapt_onnx.surgery.groups import Group
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
        values = np.moveaxis(trace.labels.value(layer.weight), layer.axis, 0)
        sums = (np.abs(values.astype(np.float64)) ** power).reshape(len(values), -1).sum(axis=1)
        np.add.at(total, trace.roots[layer.line], sums)
    result: np.ndarray = total[members]
    return result


def l2(trace: Trace, group: Group) -> np.ndarray:
    """L2 norm over the producers' slices of a channel (NetAdapt, Yang et al., ECCV 2018)."""
    norms: np.ndarray = np.sqrt(_summed_over_layers(trace, group, 2))
    return norms


def l1(trace: Trace, group: Group) -> np.ndarray:
    """L1 norm over the producers' slices of a channel (Li et al., ICLR 2017)."""
    return _summed_over_layers(trace, group, 1)


def first(trace: Trace, group: Group) -> np.ndarray:
    """Keep the first channels: for known answers."""
    return -np.arange(group.channels, dtype=np.float64)


def random(trace: Trace, group: Group) -> np.ndarray:
    """A fixed random order per group name: the baseline every other criterion must beat."""
    return np.random.default_rng(zlib.crc32(group.name.encode())).random(group.channels)


CRITERIA: dict[str, Criterion] = {"l2": l2, "l1": l1, "first": first, "random": random}


def criterion(name: str | Criterion) -> Criterion:
    """A criterion by name, or the caller's own function."""
    if not isinstance(name, str):
        return name
    if name not in CRITERIA:
        raise NetadaptError(f"no criterion '{name}'", hint=f"one of {', '.join(CRITERIA)}")
    return CRITERIA[name]


def importance(trace: Trace, by: str | Criterion = "l2") -> dict[str, np.ndarray]:
    """Importance (channels,) of every prunable group."""
    return {group.name: criterion(by)(trace, group) for group in trace.prunable}


def select(trace: Trace, counts: Mapping[str, int], by: str | Criterion = "l2") -> dict[str, Array]:
    """The channels that stay when each group keeps `counts[group]`, ascending; whole classes of tied channels.

    A group asked to keep all its channels is left out. Raises NetadaptError if a count breaks a group's step.
    """
    keep: dict[str, Array] = {}
    measure = criterion(by)
    for name, count in counts.items():
        group = trace.group(name)
        if count % group.step and count != group.channels:
            raise NetadaptError(f"group '{name}' goes in steps of {group.step}; {count} is no multiple of it")
        if count >= group.channels:
            continue
        scores = np.asarray(measure(trace, group), np.float64)
        if scores.shape != (group.channels,):
            raise NetadaptError(
                f"the criterion returned shape {scores.shape} for group '{name}'; expected ({group.channels},)"
            )
        classes, index = np.unique(trace.members[name], return_inverse=True)
        totals = np.bincount(index, weights=scores, minlength=len(classes))
        position = np.full(len(classes), group.channels)
        np.minimum.at(position, index, np.arange(group.channels))
        order = np.lexsort((position, -totals))  # ties go to the earlier channel
        chosen = np.zeros(len(classes), bool)
        chosen[order[: count // group.step]] = True
        keep[name] = np.flatnonzero(chosen[index])
    return keep
