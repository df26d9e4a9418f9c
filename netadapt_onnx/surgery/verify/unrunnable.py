"""Models with nodes that cannot be run: what these put out is fed instead, and what needs more of them is cut off."""

from __future__ import annotations

from copy import deepcopy

import onnx

from netadapt_onnx.graph.folded_model import FoldedModel
from netadapt_onnx.graph.nodes import captured, replace_all
from netadapt_onnx.graph.shapes import Spec


def relies_on_guesses(folded: FoldedModel) -> bool:
    """Whether anything is computed from a tensor whose shape was only assumed, so that no proof may rest on it."""
    read = {name for node in folded.proto.graph.node for name in [*node.input, *captured(node)]}
    return not read.isdisjoint(folded.assumed)


def can_be_proven(folded: FoldedModel) -> bool:
    """Whether a model can be run, at least around nodes that cannot."""
    return folded.unrunnable is None or (bool(folded.unrun) and not relies_on_guesses(folded))


def fed_tensors(folded: FoldedModel) -> dict[str, Spec]:
    """Shape and type of what unrunnable nodes put out, as far as they are known."""
    return {name: (folded.shapes[name], folded.dtypes[name]) for name in folded.unrun if name in folded.shapes}


def without_unrunnable(proto: onnx.ModelProto, folded: FoldedModel) -> onnx.ModelProto:
    """A copy without the nodes whose outputs are `folded.unrun`; those of known shape are inputs."""
    fed = fed_tensors(folded)
    missing = set(folded.unrun) - fed.keys()
    copy = deepcopy(proto)
    kept = []
    for node in copy.graph.node:
        if not missing.isdisjoint([*node.input, *captured(node)]):
            missing.update(name for name in node.output if name)
        elif set(folded.unrun).isdisjoint(node.output):
            kept.append(node)
    replace_all(copy.graph.node, kept)
    for i in reversed(range(len(copy.graph.output))):
        if copy.graph.output[i].name in missing:
            del copy.graph.output[i]
    for name, (shape, dtype) in fed.items():
        code = onnx.helper.np_dtype_to_tensor_dtype(dtype)
        copy.graph.input.append(onnx.helper.make_tensor_value_info(name, code, shape))
    return copy
