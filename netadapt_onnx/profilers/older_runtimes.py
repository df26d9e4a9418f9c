"""Rewrites models for older runtimes: devices have what vendors built, of which onnxruntime 1.16 is the oldest."""

from __future__ import annotations

import onnx
from onnx import defs

from netadapt_onnx.errors import NetadaptError
from netadapt_onnx.graph.nodes import node_name, subgraphs_of

OPSET, IR_VERSION = 19, 9
# Operators whose meaning changed while their signature stayed: since this opset.
CHANGED = {"GroupNormalization": 21, "GridSample": 20}


def portable(proto: onnx.ModelProto) -> onnx.ModelProto:
    """Copy a model into the opset and IR version that onnxruntime 1.16 reads; its weights and names are the same.

    Newer opsets mostly added types to operators. Raises NetadaptError naming the node that the older opset cannot
    express.
    """
    copy = onnx.ModelProto()
    copy.CopyFrom(proto)
    copy.ir_version = min(copy.ir_version, IR_VERSION)
    for opset in copy.opset_import:
        if opset.domain == "" and opset.version > OPSET:
            _check(copy.graph, opset.version)
            for function in copy.functions:
                _check(function, opset.version)
            opset.version = OPSET
    return copy


def _check(graph: onnx.GraphProto | onnx.FunctionProto, version: int) -> None:
    for tensor in graph.initializer if isinstance(graph, onnx.GraphProto) else ():
        if tensor.data_type > onnx.TensorProto.FLOAT8E5M2FNUZ:
            raise _refused(f"the type of '{tensor.name}'", "")
    for node in graph.node:
        if node.domain == "":
            _check_node(node, version)
        for inner in subgraphs_of(node):
            _check(inner, version)


def _check_node(node: onnx.NodeProto, version: int) -> None:
    new = defs.get_schema(node.op_type, version)
    try:
        old = defs.get_schema(node.op_type, OPSET)
    except defs.SchemaError:
        raise _refused(node.op_type, node_name(node)) from None
    if new.since_version == old.since_version:
        return
    names = set(old.attributes)
    unknown = next((a.name for a in node.attribute if a.name not in names), None)
    if unknown or CHANGED.get(node.op_type, version + 1) <= version:
        raise _refused(f"{node.op_type}{f' with {unknown}' if unknown else ''}", node_name(node))
    inputs = max((i + 1 for i, name in enumerate(node.input) if name), default=0)
    if inputs > old.max_input or len(node.output) > old.max_output:
        raise _refused(f"{node.op_type} with {inputs} inputs", node_name(node))


def _refused(what: str, node: str) -> NetadaptError:
    return NetadaptError(
        f"opset {OPSET}, which onnxruntime 1.16 reads, has no {what}",
        hint="export the model again with an older opset",
        node=node,
        code="not-portable",
    )
