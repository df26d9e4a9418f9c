"""Where channels end: the inputs that a node sums over channels, which is what the removal of a channel takes away."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from netadapt_onnx.surgery.trace import Trace
from netadapt_onnx.surgery.union_find import Array


@dataclass(frozen=True)
class Contraction:
    """Input number `slot` of the node that produces `output`: its `tensor` is summed over along `axis`.

    `line` holds the root label of every position along that axis, 0 where the label goes on through the node or stays
    in any case.
    """

    output: str
    slot: int
    tensor: str
    axis: int
    line: Array

    def along(self, rank: int) -> list[int]:
        """The shape of `line` among `rank` axes, to be broadcast."""
        return [len(self.line) if k == self.axis else 1 for k in range(rank)]


def reduction_sites(trace: Trace) -> tuple[Contraction, ...]:
    """All places where channels that a cut may remove are summed over, in topological order; not those in subgraphs.

    Zeroing a channel at all of them is the same as removing it (but for normalisations, whose statistics it enters, and
    recurrent layers, whose hidden units it feeds back to). A depthwise convolution is none: its channels go on.
    """
    found = []
    nodes = trace.flat.proto.graph.node
    outside = {name for node in trace.folded.proto.graph.node for name in node.output}
    for index, slot in sorted(trace.labels.masked):
        tensor = nodes[index].input[slot]
        if nodes[index].output[0] not in outside or trace.labels.is_constant(tensor):
            continue  # of a constant operand the other one has the same channels
        after = [line for name in nodes[index].output for _, line in trace.axes.get(name, ())]
        gone = np.ones(len(trace.roots), bool)
        gone[np.concatenate([*after, np.zeros(1, np.int64)])] = False
        gone &= ~trace.pinned
        for axis, line in trace.axes.get(tensor, ()):
            if gone[line].any():
                found.append(Contraction(nodes[index].output[0], slot, tensor, axis, np.where(gone[line], line, 0)))
    return tuple(found)
