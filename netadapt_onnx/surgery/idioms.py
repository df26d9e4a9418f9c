"""Idioms replaced by the one operator they spell, so that they couple no channels that nothing needs coupled.

A channel shuffle is a fixed permutation of channels. Spelled as Reshape, Transpose, Reshape, or in another way
(`shuffle.py`), it can only be cut to equal counts in every shuffle group, which after a few ShuffleNet units ties all
channels into one; as a Gather it can be cut anywhere (and took 0.7 times as long in onnxruntime 1.31). A recurrent
layer that starts from zeros needs no initial state; one zero tensor that several layers take slices of would tie their
hidden units.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import chain, count

import onnx
from onnx import numpy_helper

from netadapt_onnx.graph.folding import Folded
from netadapt_onnx.graph.lazy_weights import without_weights
from netadapt_onnx.graph.model import node_name
from netadapt_onnx.graph.subgraphs import captured
from netadapt_onnx.surgery.shuffle import MOVING, Shuffle, shuffles, spelled

RECURRENT = {"LSTM": (5, 6), "GRU": (5,), "RNN": (5,), "DynamicQuantizeLSTM": (5, 6)}
# Operators that put out nothing but what is in their first input (or, ConstantOfShape, a value of their own).
PASSING = {"Expand", "Tile", "Cast", "Identity"} | (MOVING - {"Concat"})
ROUNDS = 4


@dataclass(frozen=True)
class Replacement:
    """Nodes that stand in for one node, and their constants; `shapes` are of tensors between them."""

    nodes: Sequence[onnx.NodeProto]
    constants: Sequence[onnx.TensorProto] = ()
    shapes: Mapping[str, tuple[int, ...]] = field(default_factory=dict)


def canonical(folded: Folded) -> Folded:
    """A folded model in which idioms are replaced; the same object if there are none."""
    gathers = _gathers(folded)
    if gathers:
        folded = _rewritten(folded, gathers)
    graph = folded.proto.graph
    replacements = _stateless(graph)
    shuffled = shuffles(folded)
    producer = {node.output[0]: node for node in graph.node if node.output}
    replacements |= {result: _at_once(shuffle, producer[result], folded) for result, shuffle in shuffled.items()}
    for _ in range(ROUNDS if shuffled else 0):
        # Where channels stay spread because something else reads them so, a shuffle on its own frees nothing.
        _, needed = _kept(graph, replacements)
        in_vain = [result for result, shuffle in shuffled.items() if not needed.isdisjoint(shuffle.spread)]
        if not in_vain:
            break
        for result in in_vain:
            del replacements[result], shuffled[result]
    return _rewritten(folded, replacements) if replacements else folded


def _at_once(shuffle: Shuffle, last: onnx.NodeProto, folded: Folded) -> Replacement:
    opset = max((o.version for o in folded.proto.opset_import if o.domain in ("", "ai.onnx")), default=1)
    between: list[str] = []

    def free(suffix: str) -> str:
        between.append(_free_name(f"{node_name(last)}/{suffix}", folded))
        return between[-1]

    nodes, constants = spelled(shuffle, last, opset, free)
    shape = list(folded.shapes[shuffle.sources[0]])
    shape[shuffle.axis] = sum(folded.shapes[name][shuffle.axis] for name in shuffle.sources)
    joined = set(between) - {tensor.name for tensor in constants}
    return Replacement(nodes, constants, dict.fromkeys(joined, tuple(shape)))


def _free_name(base: str, folded: Folded) -> str:
    names = chain([base], (f"{base}_{i}" for i in count(1)))
    return next(name for name in names if name not in folded.shapes)


def _gathers(folded: Folded) -> dict[str, Replacement]:
    """GatherND by constant indices into one axis, as torch spells `x[:, order]` after a Transpose: a Gather."""
    constants = {t.name: t for t in folded.proto.graph.initializer}
    replacements = {}
    for node in folded.proto.graph.node:
        along_batch = any(a.name == "batch_dims" and a.i for a in node.attribute)
        if node.op_type != "GatherND" or node.domain not in ("", "ai.onnx") or along_batch:
            continue
        indices = constants.get(node.input[1])
        if indices is not None and indices.dims[-1:] == [1]:
            values = numpy_helper.to_array(indices)[..., 0]
            order = numpy_helper.from_array(values, _free_name(f"{node_name(node)}/order", folded))
            gather = onnx.helper.make_node("Gather", [node.input[0], order.name], node.output, node.name, axis=0)
            replacements[node.output[0]] = Replacement([gather], [order])
    return replacements


def _stateless(graph: onnx.GraphProto) -> dict[str, Replacement]:
    """Recurrent layers that start from zeros, without their initial states."""
    producer = {name: node for node in graph.node for name in node.output if name}
    constants = {t.name: t for t in graph.initializer}
    replacements = {}
    for node in graph.node:
        if node.op_type in RECURRENT:
            states = [slot for slot in RECURRENT[node.op_type] if slot < len(node.input) and node.input[slot]]
            if states and all(_zero(node.input[slot], producer, constants) for slot in states):
                replacements[_first_output(node)] = Replacement([_without(node, states)])
    return replacements


def _first_output(node: onnx.NodeProto) -> str:
    return next(filter(None, node.output), "")


def _zero(name: str, producer: Mapping[str, onnx.NodeProto], constants: Mapping[str, onnx.TensorProto]) -> bool:
    """Whether a tensor holds nothing but zeros, whatever the inputs are."""
    if name in constants:
        return not numpy_helper.to_array(constants[name]).any()
    node = producer.get(name)
    if node is None:
        return False
    if node.op_type == "ConstantOfShape":
        return not any(numpy_helper.to_array(a.t).any() for a in node.attribute)
    return node.op_type in PASSING and _zero(node.input[0], producer, constants)


def _without(node: onnx.NodeProto, slots: Sequence[int]) -> onnx.NodeProto:
    made = onnx.NodeProto()
    made.CopyFrom(node)
    for slot in slots:
        made.input[slot] = ""
    while made.input and not made.input[-1]:
        del made.input[-1]
    return made


def _kept(graph: onnx.GraphProto, replacements: Mapping[str, Replacement]) -> tuple[list[onnx.NodeProto], set[str]]:
    """The nodes that are left after some were replaced, without those that nothing reads any more; what they read."""
    needed = {value.name for value in graph.output}
    kept: list[onnx.NodeProto] = []
    for node in reversed(graph.node):
        replacement = replacements.get(_first_output(node))
        for each in reversed(replacement.nodes) if replacement is not None else [node]:
            if not needed.isdisjoint(each.output):
                kept.append(each)
                needed.update([*each.input, *captured(each)])
    return kept[::-1], needed


def _rewritten(folded: Folded, replacements: Mapping[str, Replacement]) -> Folded:
    """The model with some nodes replaced, and without the nodes and constants that nothing reads any more."""
    old = folded.proto.graph
    kept, needed = _kept(old, replacements)
    proto = without_weights(folded.proto)
    del proto.graph.node[:]
    proto.graph.node.extend(kept)
    added = [tensor for replacement in replacements.values() for tensor in replacement.constants]
    proto.graph.initializer.extend(tensor for tensor in old.initializer if tensor.name in needed)
    proto.graph.initializer.extend(added)
    gone = set(folded.shapes) - needed - {name for node in kept for name in node.output} - set(folded.specs)
    arrays = {tensor.name: numpy_helper.to_array(tensor) for tensor in added}
    shapes = {k: v for k, v in folded.shapes.items() if k not in gone} | {k: v.shape for k, v in arrays.items()}
    dtypes = {k: v for k, v in folded.dtypes.items() if k not in gone} | {k: v.dtype for k, v in arrays.items()}
    for result, replacement in replacements.items():
        shapes |= replacement.shapes
        dtypes |= dict.fromkeys(replacement.shapes, folded.dtypes[result])
    return replace(folded, proto=proto, shapes=shapes, dtypes=dtypes)
