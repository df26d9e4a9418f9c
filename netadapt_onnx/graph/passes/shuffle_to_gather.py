"""A channel shuffle, however it is spelled (`channel_shuffles.py`), becomes one Gather.

Spelled as Reshape, Transpose, Reshape, say, its channels lie on two axes in between, of which only equal counts can go:
after a few ShuffleNet units that ties all channels into one group. A Gather can be cut anywhere (and took 0.7 times as
long in onnxruntime 1.31).
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx
from onnx import numpy_helper

from netadapt_onnx.graph.channel_shuffles import Shuffle, find_shuffles
from netadapt_onnx.graph.folded_model import FoldedModel
from netadapt_onnx.graph.nodes import node_name, opset_version, unused_name
from netadapt_onnx.graph.passes.replacement import Replacement, remaining_nodes, replace_nodes
from netadapt_onnx.graph.passes.result import PassResult

SLICE_INPUTS_OPSET = 10
ROUNDS = 4


def shuffle_to_gather(folded: FoldedModel) -> PassResult[FoldedModel]:
    """Replace channel shuffles, but for those inside which something else reads the spread channels."""
    graph = folded.proto.graph
    shuffles = find_shuffles(folded)
    producer = {node.output[0]: node for node in graph.node if node.output}
    replacements = {result: _replacement(shuffle, producer[result], folded) for result, shuffle in shuffles.items()}
    for _ in range(ROUNDS if shuffles else 0):
        # Where channels stay spread because something else reads them so, a shuffle on its own frees nothing.
        _, needed = remaining_nodes(graph, replacements)
        in_vain = [result for result, shuffle in shuffles.items() if not needed.isdisjoint(shuffle.spread)]
        if not in_vain:
            break
        for result in in_vain:
            del replacements[result], shuffles[result]
    return replace_nodes(folded, replacements)


def _replacement(shuffle: Shuffle, last: onnx.NodeProto, folded: FoldedModel) -> Replacement:
    """What computes a shuffle at once, in place of its `last` node."""
    between: list[str] = []

    def new_name(suffix: str) -> str:
        between.append(unused_name(f"{node_name(last)}/{suffix}", folded.shapes))
        return between[-1]

    nodes, constants = _gather(shuffle, last, opset_version(folded.proto), new_name)
    shape = list(folded.shapes[shuffle.sources[0]])
    shape[shuffle.axis] = sum(folded.shapes[name][shuffle.axis] for name in shuffle.sources)
    joined = set(between) - {tensor.name for tensor in constants}
    return Replacement(nodes, constants, dict.fromkeys(joined, tuple(shape)))


def _gather(
    shuffle: Shuffle, last: onnx.NodeProto, opset: int, new_name: Callable[[str], str]
) -> tuple[list[onnx.NodeProto], list[onnx.TensorProto]]:
    """The nodes and their constants: a Concat of several sources, then a Gather or, of neighbours, a Slice.

    A Slice copies faster.
    """
    result, order, source = list(last.output), shuffle.order, shuffle.sources[0]
    nodes: list[onnx.NodeProto] = []
    if len(shuffle.sources) > 1:
        if shuffle.is_complete:
            return [onnx.helper.make_node("Concat", shuffle.sources, result, last.name, axis=shuffle.axis)], []
        source = new_name("joined")
        nodes.append(onnx.helper.make_node("Concat", shuffle.sources, [source], source, axis=shuffle.axis))
    if opset >= SLICE_INPUTS_OPSET and (np.diff(order) == 1).all():
        bounds = {"starts": order[:1], "ends": order[-1:] + 1, "axes": np.array([shuffle.axis])}
        constants = [numpy_helper.from_array(value.astype(np.int64), new_name(name)) for name, value in bounds.items()]
        inputs = [source, *(tensor.name for tensor in constants)]
        nodes.append(onnx.helper.make_node("Slice", inputs, result, last.name))
    else:
        constants = [numpy_helper.from_array(order.astype(np.int64), new_name("order"))]
        nodes.append(onnx.helper.make_node("Gather", [source, constants[0].name], result, last.name, axis=shuffle.axis))
    return nodes, constants
