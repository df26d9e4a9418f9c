"""Identity nodes go wherever nothing outside the graph can see it."""

from __future__ import annotations

import onnx

from netadapt_onnx.errors import NetadaptError
from netadapt_onnx.graph.nodes import all_subgraphs, is_standard, keep_only, rename
from netadapt_onnx.graph.passes.result import PassResult


def remove_identity(proto: onnx.ModelProto) -> PassResult[onnx.ModelProto]:
    """Let the readers of an Identity, also those in subgraphs, read what it reads, in place.

    Those that name an output of the graph stay. Raises NetadaptError where a subgraph returns what one puts out.
    """
    graph = proto.graph
    outputs = {v.name for v in graph.output}
    sources: dict[str, str] = {}
    kept = []
    for node in graph.node:
        if is_standard(node, "Identity") and node.output[0] not in outputs:
            sources[node.output[0]] = sources.get(node.input[0], node.input[0])
        else:
            kept.append(node)
    if not sources:
        return PassResult(proto, False)
    for body in all_subgraphs(kept):
        for value in body.output:
            if value.name in sources:
                raise NetadaptError(f"a subgraph returns the outer tensor '{value.name}' directly", code="unsupported")
    for node in kept:
        rename(node, sources)
    return PassResult(proto, keep_only(graph.node, kept))
