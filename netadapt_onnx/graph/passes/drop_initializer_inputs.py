"""Initializers that a file lists among its inputs are constants all the same: they are inputs no longer."""

from __future__ import annotations

import onnx

from netadapt_onnx.graph.passes.result import PassResult


def drop_initializer_inputs(proto: onnx.ModelProto) -> PassResult[onnx.ModelProto]:
    """Take the names of initializers out of the inputs of the main graph, in place."""
    graph = proto.graph
    names = {t.name for t in graph.initializer}
    kept = [value for value in graph.input if value.name not in names]
    changed = len(kept) < len(graph.input)
    if changed:
        del graph.input[:]
        graph.input.extend(kept)
    return PassResult(proto, changed)
