"""What tools ask of a file beside its graph: an IR version that they read, a name for the graph."""

from __future__ import annotations

import onnx

from netadapt_onnx.graph.passes.result import PassResult

# onnx-graphsurgeon and the checker refuse IR 3 models whose initializers are no longer inputs.
MINIMUM_IR = 4


def complete_header(proto: onnx.ModelProto) -> PassResult[onnx.ModelProto]:
    """Raise the IR version to `MINIMUM_IR` and name a graph without a name, in place."""
    before = proto.ir_version, proto.graph.name
    proto.ir_version = max(proto.ir_version, MINIMUM_IR)
    proto.graph.name = proto.graph.name or "graph"  # the checker wants one, no runtime does
    return PassResult(proto, before != (proto.ir_version, proto.graph.name))
