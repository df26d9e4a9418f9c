"""Shapes of what one node puts out: ONNX's own inference, and those of an If of which one branch may be impossible."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import onnx
from onnx.checker import ValidationError
from onnx.shape_inference import InferenceError, infer_node_outputs

from netadapt_onnx.errors import NetadaptError, one_line
from netadapt_onnx.graph.nodes import domain_of, node_name, subgraphs_of
from netadapt_onnx.graph.runtime import Arrays
from netadapt_onnx.graph.shapes import Spec


def infer_types(
    node: onnx.NodeProto,
    types: Mapping[str, onnx.TypeProto],
    values: Mapping[str, onnx.TensorProto],
    opsets: Sequence[onnx.OperatorSetIdProto],
) -> Mapping[str, onnx.TypeProto] | None:
    """The types that ONNX infers of a node's outputs, as far as it infers any.

    Args:
        node: the node.
        types: those of all tensors that it reads.
        values: what is known of their values.
        opsets: the versions of all domains.

    Returns:
        Types by output, None for an operator that ONNX does not know.

    Raises:
        NetadaptError: (`unrunnable`, with the node) where types or shapes contradict each other.
    """
    domain = domain_of(node)
    version = next((opset.version for opset in opsets if domain_of(opset) == domain), 1)
    try:
        schema = onnx.defs.get_schema(node.op_type, version, domain)
    except (onnx.defs.SchemaError, TypeError):  # TypeError: a version beyond 32 bits
        return None
    try:
        return dict(infer_node_outputs(schema, node, dict(types), dict(values), opset_imports=list(opsets)))
    except (InferenceError, ValidationError, RuntimeError, ValueError, KeyError, TypeError) as error:
        reason = one_line(error).removeprefix("[ShapeInferenceError] ").removeprefix("[TypeInferenceError] ")
        raise NetadaptError(f"{node.op_type}: {reason}", node=node_name(node), code="unrunnable") from error


def run_possible(node: onnx.NodeProto, feeds: Arrays, decided: bool, run: Callable[[Arrays], Arrays]) -> Arrays:
    """Outputs of a node; an If whose condition is not `decided` runs the first branch that can be run.

    Raises the NetadaptError of the last one if none can.
    """
    if decided or node.op_type != "If":
        return run(feeds)
    shape = feeds[node.input[0]].shape
    try:
        return run({**feeds, node.input[0]: np.full(shape, True)})
    except NetadaptError:
        return run({**feeds, node.input[0]: np.full(shape, False)})


def returned(
    node: onnx.NodeProto, evaluate: Callable[[onnx.GraphProto], Mapping[str, Spec]]
) -> Sequence[tuple[str, Spec]]:
    """Shapes and types of what an If returns, from the first branch that `evaluate` accepts; () if there is none."""
    for body in subgraphs_of(node) if node.op_type == "If" else ():
        try:
            inner = evaluate(body)
        except NetadaptError:
            continue
        if all(value.name in inner for value in body.output):
            pairs = zip(node.output, body.output, strict=False)
            return [(name, inner[value.name]) for name, value in pairs if name]
    return ()
