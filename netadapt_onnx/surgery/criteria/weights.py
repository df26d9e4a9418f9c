"""Criteria that look at weights alone: l2, l1, group-l2, fpgm, bn-scale, and two baselines."""

from __future__ import annotations

import zlib

import numpy as np

from netadapt_onnx.errors import NetadaptError
from netadapt_onnx.surgery.criteria.scores import ChannelScores, Criterion
from netadapt_onnx.surgery.criteria.slice_sums import layer_sums, slice_sums
from netadapt_onnx.surgery.groups import Group
from netadapt_onnx.surgery.trace import Trace


def _summed_over_layers(trace: Trace, group: Group, power: int) -> np.ndarray:
    """Sum of |w|^power over the producers' slices of each channel, (channels,); channels tied together share it."""
    scores = ChannelScores(trace, group)
    for layer in trace.layers_of(group):
        scores.add(trace.roots[layer.axis_labels], layer_sums(trace, layer, power))
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
    for use, axis, axis_labels in trace.uses_of(group):
        values = trace.labels.value(use.constant)
        if (use.constant, axis) in seen or values.ndim < 2 or values.dtype.kind != "f":
            continue
        seen.add((use.constant, axis))
        blocks = use.blocks if axis == 1 else None
        if blocks is None:
            scores.add(axis_labels, slice_sums(values, axis, 2))
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
        scores.add(trace.roots[layer.axis_labels], distances.sum(axis=1))
    return scores.by_channel


def bn_scale(trace: Trace, group: Group) -> np.ndarray:
    """Magnitude of the BatchNorm scales of a channel (Liu et al., ICCV 2017). NetadaptError where there is none."""
    scores = ChannelScores(trace, group)
    nodes = trace.flat.proto.graph.node
    uses = trace.uses_of(group)
    scales = [u for u in uses if nodes[u[0].node].op_type == "BatchNormalization" and u[0].slot == 1]
    for use, _, axis_labels in scales:
        scores.add(axis_labels, np.abs(trace.labels.value(use.constant).astype(np.float64)))
    if not scales:
        raise NetadaptError(
            f"group '{group.name}' has no BatchNorm to take the scales of",
            hint="choose another criterion, or export the model with its BatchNorms (`netadapt-onnx export`)",
            code="no-batchnorm",
        )
    return scores.by_channel


def first(trace: Trace, group: Group) -> np.ndarray:
    """The first channels stay: a criterion whose result is known beforehand."""
    return -np.arange(group.channels, dtype=np.float64)


def random(trace: Trace, group: Group) -> np.ndarray:
    """A fixed random order per group name: the baseline every other criterion must beat."""
    return np.random.default_rng(zlib.crc32(group.name.encode())).random(group.channels)


CRITERIA: dict[str, Criterion] = {
    "l2": l2,
    "l1": l1,
    "group-l2": group_l2,
    "fpgm": fpgm,
    "bn-scale": bn_scale,
    "random": random,
    "first": first,
}
