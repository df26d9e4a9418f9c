"""Where channels are summed over: what the removal of a channel takes away are its terms there."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from netadapt_onnx.graph.axis_arrays import Array
from netadapt_onnx.surgery.trace import Trace


@dataclass(frozen=True)
class ReductionSite:
    """An input of a node that is summed over along one axis.

    Attributes:
        output: The first output of the node.
        slot: The number of the input.
        tensor: The name of the input.
        axis: The axis that is summed over.
        axis_labels: The root label of every position along it; 0 where the label goes on through the node or stays in
            any case.
    """

    output: str
    slot: int
    tensor: str
    axis: int
    axis_labels: Array

    def gate_shape(self, rank: int) -> list[int]:
        """The shape of a gate for each position along the axis, among `rank` axes, to be broadcast."""
        return [len(self.axis_labels) if k == self.axis else 1 for k in range(rank)]


def reduction_sites(trace: Trace) -> tuple[ReductionSite, ...]:
    """All places where channels that a cut may remove are summed over, in topological order; not those in subgraphs.

    Zeroing a channel at all of them is the same as removing it (but for normalisations, whose statistics it enters, and
    recurrent layers, whose hidden units it feeds back to). A depthwise convolution is none: its channels go on.
    """
    sites = []
    nodes = trace.flat.proto.graph.node
    outside = {name for node in trace.folded.proto.graph.node for name in node.output}
    for index, slot in sorted(trace.labels.masked):
        tensor = nodes[index].input[slot]
        if nodes[index].output[0] not in outside or trace.labels.is_constant(tensor):
            continue  # of a constant operand the other one has the same channels
        after = [axis_labels for name in nodes[index].output for _, axis_labels in trace.axes.get(name, ())]
        gone = np.ones(len(trace.roots), bool)
        gone[np.concatenate([*after, np.zeros(1, np.int64)])] = False
        gone &= ~trace.pinned
        for axis, axis_labels in trace.axes.get(tensor, ()):
            if gone[axis_labels].any():
                summed = np.where(gone[axis_labels], axis_labels, 0)
                sites.append(ReductionSite(nodes[index].output[0], slot, tensor, axis, summed))
    return tuple(sites)
