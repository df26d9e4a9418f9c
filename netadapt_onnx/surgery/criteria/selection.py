"""Which channels stay: importance by a criterion, and the selection of channels for given counts."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from netadapt_onnx.errors import NetadaptError, did_you_mean
from netadapt_onnx.graph.axis_arrays import Array
from netadapt_onnx.surgery.criteria.scores import ACTIVATION, OBS, Criterion
from netadapt_onnx.surgery.criteria.weights import CRITERIA
from netadapt_onnx.surgery.groups import Group
from netadapt_onnx.surgery.trace import Trace

# Criteria that look at inputs besides weights.
MEASURED = (OBS, "taylor", "fisher", ACTIVATION)


def criterion_of(name: str | Criterion) -> Criterion:
    """A criterion by name, or the caller's own function."""
    if not isinstance(name, str):
        return name
    if name in MEASURED:
        raise NetadaptError(f"criterion '{name}' looks at inputs", hint="give --data with x_train", code="usage")
    if name not in CRITERIA:
        names = (*CRITERIA, *MEASURED)
        raise NetadaptError(
            f"no criterion '{name}'", hint=did_you_mean(name, names, f"one of {', '.join(names)}"), code="usage"
        )
    return CRITERIA[name]


def importance(trace: Trace, criterion: str | Criterion = "l2", *, normalised: bool = False) -> dict[str, np.ndarray]:
    """Importance of every channel.

    Args:
        trace: The model.
        criterion: A criterion, or the name of one.
        normalised: Whether to divide by the mean size over the group, so that groups compare.

    Returns:
        By prunable group the importance of its channels, (channels,).
    """
    by_group = {group.name: _scores(trace, group, criterion_of(criterion)) for group in trace.prunable}
    if not normalised:
        return by_group
    return {name: scores / (float(np.abs(scores).mean()) or 1.0) for name, scores in by_group.items()}


def class_totals(trace: Trace, group: Group, scores: np.ndarray) -> np.ndarray:
    """The summed scores of each class of tied channels, (channels / step,)."""
    classes, index = np.unique(trace.members[group.name], return_inverse=True)
    totals: np.ndarray = np.bincount(index, weights=scores, minlength=len(classes))
    return totals


def select(trace: Trace, counts: Mapping[str, int], criterion: str | Criterion = "l2") -> dict[str, Array]:
    """Choose the channels that stay: the most important ones, as whole classes of tied channels.

    Args:
        trace: The model.
        counts: How many channels each group keeps. More than it has repeats its last channels: `resize` then adds new
            ones.
        criterion: A criterion, or the name of one.

    Returns:
        The channels that each group keeps, ascending; groups that keep all of theirs are left out.

    Raises:
        NetadaptError: If a count breaks a group's step.
    """
    keep: dict[str, Array] = {}
    measure = criterion_of(criterion)
    for name, count in counts.items():
        group = trace.group(name)
        if count % group.step and count != group.channels:
            raise NetadaptError(f"group '{name}' goes in steps of {group.step}; {count} is no multiple of it")
        if count == group.channels:
            continue
        if count > group.channels:
            keep[name] = _grown(trace.members[name], (count - group.channels) // group.step)
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


def _grown(members: Array, added: int) -> Array:
    """The indices of all channels, those of the last class of tied ones `added` times more."""
    times = np.where(members == members[-1], 1 + added, 1)
    return np.repeat(np.arange(len(members)), times)


def _scores(trace: Trace, group: Group, measure: Criterion) -> np.ndarray:
    scores: np.ndarray = np.asarray(measure(trace, group), np.float64)
    if scores.shape != (group.channels,):
        raise NetadaptError(
            f"the criterion returned shape {scores.shape} for group '{group.name}'; expected ({group.channels},)"
        )
    return scores
