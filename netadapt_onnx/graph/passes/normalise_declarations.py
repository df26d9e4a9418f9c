"""What a file declares beside its nodes: four passes over its header, its names, its inputs and its shapes.

An IR version that tools read and a name for the graph are filled in. Two tensors never share a name. Initializers that
are listed among the inputs are constants all the same, so they are inputs no longer. Shapes declared of tensors inside
the graph go: surgery would make them wrong."""

from __future__ import annotations

import onnx

from netadapt_onnx.errors import NetadaptError
from netadapt_onnx.graph.nodes import is_standard, keep_only
from netadapt_onnx.graph.passes.result import PassResult
from netadapt_onnx.graph.validity import refuse_twice


def drop_declared_shapes(proto: onnx.ModelProto) -> PassResult[onnx.ModelProto]:
    """Drop declared shapes in place, but for those of operators outside ONNX, whose shapes nothing else determines."""
    graph = proto.graph
    foreign = {name for node in graph.node if not is_standard(node) for name in node.output}
    return PassResult(proto, keep_only(graph.value_info, [v for v in graph.value_info if v.name in foreign]))


def drop_initializer_inputs(proto: onnx.ModelProto) -> PassResult[onnx.ModelProto]:
    """Take the names of initializers out of the inputs of the main graph, in place."""
    graph = proto.graph
    names = {t.name for t in graph.initializer}
    return PassResult(proto, keep_only(graph.input, [value for value in graph.input if value.name not in names]))


# onnx-graphsurgeon and the checker refuse IR 3 models whose initializers are no longer inputs.
MINIMUM_IR = 4


def complete_header(proto: onnx.ModelProto) -> PassResult[onnx.ModelProto]:
    """Raise the IR version to `MINIMUM_IR` and name a graph without a name, in place."""
    before = proto.ir_version, proto.graph.name
    proto.ir_version = max(proto.ir_version, MINIMUM_IR)
    proto.graph.name = proto.graph.name or "graph"  # the checker wants one, no runtime does
    return PassResult(proto, before != (proto.ir_version, proto.graph.name))


def require_unique_names(proto: onnx.ModelProto) -> PassResult[onnx.ModelProto]:
    """Change nothing. Raises NetadaptError if two initializers or two outputs of nodes share a name."""
    graph = proto.graph
    refuse_twice("two initializers", (t.name for t in graph.initializer))
    seen: set[str] = {v.name for v in graph.input} | {t.name for t in graph.initializer}
    for node in graph.node:
        for name in filter(None, node.output):
            if name in seen:
                raise NetadaptError(f"tensor '{name}' is produced twice", code="not-onnx")
            seen.add(name)
    return PassResult(proto, False)
