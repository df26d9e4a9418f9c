"""Which positions of each of the original's constants a cut keeps: the rows and columns of a state dict that stay."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field

import numpy as np
import onnx

from netadapt_onnx.common.grouping import grouped
from netadapt_onnx.graph.axis_arrays import Array
from netadapt_onnx.graph.shapes import Shape
from netadapt_onnx.surgery.cut import KeptIndices
from netadapt_onnx.surgery.records import Use
from netadapt_onnx.surgery.trace import Trace


@dataclass(frozen=True)
class TensorSlice:
    """What stays of one tensor.

    Attributes:
        shape: Its shape before the cut.
        axes: By axis that gets shorter, the positions that stay, ascending.
        groups: By such an axis, the group whose channels lie along it, in their order and alone, if there is one.
    """

    shape: Shape
    axes: Mapping[int, tuple[int, ...]]
    groups: Mapping[int, str] = field(default_factory=dict, compare=False)


@dataclass(frozen=True)
class StateSlices:
    """What stays of the original's constants.

    Attributes:
        tensors: By name, those that get shorter.
        removed: The names of those that the model no longer has.
        unclear: The names of those that no positions along their axes describe: nodes keep different parts of one
            tensor, or the groups of a convolution keep different inputs.
    """

    tensors: Mapping[str, TensorSlice]
    removed: tuple[str, ...] = field(default=())
    unclear: tuple[str, ...] = field(default=())


def state_slices(trace: Trace, keep: KeptIndices, removed: Collection[str] = ()) -> StateSlices:
    """What stays of each constant of a traced model after a cut.

    Args:
        trace: The model.
        keep: By group the ascending indices of the channels that stay, none of them twice.
        removed: The constants that the model loses with its branches, which are left out of the rest.

    Raises:
        NetadaptError: As `Trace.copies` does.
    """
    copies = trace.copies(keep)
    groups = {trace.members[name].tobytes(): name for name in keep}
    reads = _reads(trace.flat.proto.graph)
    tensors: dict[str, TensorSlice] = {}
    unclear = []
    for name, uses in grouped((use.constant, use) for use in trace.labels.uses).items():
        if name in removed:
            continue
        slices = [_slice(trace, copies, use, groups) for use in uses]
        if not any(one.axes for one in slices) and not any(_differs_by_block(trace, copies, use) for use in uses):
            continue
        whole_readers = reads[name] > len({(use.node, use.slot) for use in uses})
        if whole_readers or slices.count(slices[0]) < len(slices) or _differs_by_block(trace, copies, uses[0]):
            unclear.append(name)
        else:
            tensors[name] = slices[0]
    return StateSlices(tensors, tuple(sorted(removed)), tuple(sorted(unclear)))


def lost_constants(original: Trace, smaller: Trace) -> frozenset[str]:
    """The names of the constants that a model lost with its branches."""
    names = ({tensor.name for tensor in trace.folded.proto.graph.initializer} for trace in (original, smaller))
    before, after = names
    return frozenset(before - after)


def _slice(trace: Trace, copies: Array, use: Use, groups: Mapping[bytes, str]) -> TensorSlice:
    """What one node keeps of a constant. `groups` are named by the labels of their channels."""
    shape = trace.flat.shapes[use.constant]
    labels = dict(map(trace.axis_labels_of, use.factors))
    axes = {axis: _kept(copies[roots]) for axis, roots in sorted(labels.items())}
    shorter = {axis: kept for axis, kept in axes.items() if len(kept) < shape[axis]}
    names = {axis: groups[key] for axis in shorter if (key := labels[axis].tobytes()) in groups}
    return TensorSlice(shape, shorter, names)


def _differs_by_block(trace: Trace, copies: Array, use: Use) -> bool:
    """Whether the groups of a convolution keep different inputs."""
    return use.blocks is not None and len({_kept(copies[trace.roots[block]]) for block in use.blocks}) > 1


def _kept(copies: Array) -> tuple[int, ...]:
    return tuple(np.flatnonzero(copies).tolist())


def _reads(graph: onnx.GraphProto) -> dict[str, int]:
    """How many places read a tensor: inputs of nodes, and the graph's outputs."""
    places = [name for node in graph.node for name in node.input] + [value.name for value in graph.output]
    return {name: len(many) for name, many in grouped((name, name) for name in places).items()}
