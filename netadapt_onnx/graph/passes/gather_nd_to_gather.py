"""GatherND by constant indices into one axis, as torch spells `x[:, order]` after a Transpose, is a Gather."""

from __future__ import annotations

import onnx
from onnx import numpy_helper

from netadapt_onnx.graph.folded_model import FoldedModel
from netadapt_onnx.graph.nodes import attribute, is_standard, node_name, unused_name
from netadapt_onnx.graph.passes.replacement import Replacement, replace_nodes
from netadapt_onnx.graph.passes.result import PassResult


def gather_nd_to_gather(folded: FoldedModel) -> PassResult[FoldedModel]:
    """Replace every GatherND with constant indices of one entry each."""
    constants = {t.name: t for t in folded.proto.graph.initializer}
    replacements = {}
    for node in folded.proto.graph.node:
        if not is_standard(node, "GatherND") or attribute(node, "batch_dims"):
            continue
        indices = constants.get(node.input[1])
        if indices is not None and indices.dims[-1:] == [1]:
            values = numpy_helper.to_array(indices)[..., 0]
            order = numpy_helper.from_array(values, unused_name(f"{node_name(node)}/order", folded.shapes))
            gather = onnx.helper.make_node("Gather", [node.input[0], order.name], node.output, node.name, axis=0)
            replacements[node.output[0]] = Replacement([gather], [order])
    return replace_nodes(folded, replacements)
