"""A recurrent layer that starts from zeros needs no initial state.

One zero tensor that several layers take slices of would tie their hidden units.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import onnx
from onnx import numpy_helper

from netadapt_onnx.graph.channel_shuffles import MOVING
from netadapt_onnx.graph.folded_model import FoldedModel
from netadapt_onnx.graph.passes.replacement import Replacement, first_output, replace_nodes
from netadapt_onnx.graph.passes.result import PassResult

# By operator the inputs that hold initial states.
STATES = {"LSTM": (5, 6), "GRU": (5,), "RNN": (5,), "DynamicQuantizeLSTM": (5, 6)}
# Operators that put out nothing but what is in their first input.
PASSING = {"Expand", "Tile", "Cast", "Identity"} | (MOVING - {"Concat"})


def drop_zero_state(folded: FoldedModel) -> PassResult[FoldedModel]:
    """Let recurrent layers all of whose initial states are zeros do without them."""
    graph = folded.proto.graph
    producer = {name: node for node in graph.node for name in node.output if name}
    constants = {t.name: t for t in graph.initializer}
    replacements = {}
    for node in graph.node:
        states = [slot for slot in STATES.get(node.op_type, ()) if slot < len(node.input) and node.input[slot]]
        if states and all(_is_zero(node.input[slot], producer, constants) for slot in states):
            replacements[first_output(node)] = Replacement([_without_inputs(node, states)])
    return replace_nodes(folded, replacements)


def _is_zero(name: str, producer: Mapping[str, onnx.NodeProto], constants: Mapping[str, onnx.TensorProto]) -> bool:
    """Whether a tensor holds nothing but zeros, whatever the inputs are."""
    if name in constants:
        return not numpy_helper.to_array(constants[name]).any()
    node = producer.get(name)
    if node is None:
        return False
    if node.op_type == "ConstantOfShape":
        return not any(numpy_helper.to_array(a.t).any() for a in node.attribute)
    return node.op_type in PASSING and _is_zero(node.input[0], producer, constants)


def _without_inputs(node: onnx.NodeProto, slots: Sequence[int]) -> onnx.NodeProto:
    copy = onnx.NodeProto()
    copy.CopyFrom(node)
    for slot in slots:
        copy.input[slot] = ""
    while copy.input and not copy.input[-1]:
        del copy.input[-1]
    return copy
