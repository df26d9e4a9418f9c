"""A check that runs among the passes: no two tensors of a graph share a name."""

from __future__ import annotations

from collections import Counter

import onnx

from netadapt_onnx.errors import NetadaptError
from netadapt_onnx.graph.passes.result import PassResult


def require_unique_names(proto: onnx.ModelProto) -> PassResult[onnx.ModelProto]:
    """Change nothing. Raises NetadaptError if two initializers or two outputs of nodes share a name."""
    graph = proto.graph
    repeated = [name for name, count in Counter(t.name for t in graph.initializer).items() if count > 1]
    if repeated:
        raise NetadaptError(f"two initializers share the name '{repeated[0]}'", code="not-onnx")
    seen: set[str] = {v.name for v in graph.input} | {t.name for t in graph.initializer}
    for node in graph.node:
        for name in filter(None, node.output):
            if name in seen:
                raise NetadaptError(f"tensor '{name}' is produced twice", code="not-onnx")
            seen.add(name)
    return PassResult(proto, False)
