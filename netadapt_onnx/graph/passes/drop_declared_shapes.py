"""Shapes that a file declares of tensors inside the graph go: surgery would make them wrong."""

from __future__ import annotations

import onnx

from netadapt_onnx.graph.nodes import is_standard
from netadapt_onnx.graph.passes.result import PassResult


def drop_declared_shapes(proto: onnx.ModelProto) -> PassResult[onnx.ModelProto]:
    """Drop declared shapes in place, but for those of operators outside ONNX, whose shapes nothing else determines."""
    graph = proto.graph
    foreign = {name for node in graph.node if not is_standard(node) for name in node.output}
    kept = [onnx.ValueInfoProto.FromString(v.SerializeToString()) for v in graph.value_info if v.name in foreign]
    changed = len(kept) < len(graph.value_info)
    del graph.value_info[:]
    graph.value_info.extend(kept)
    return PassResult(proto, changed)
