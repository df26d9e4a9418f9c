"""ONNX's own shape inference for one node."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import onnx
import onnx.shape_inference

from netadapt_onnx.errors import NetadaptError, one_line
from netadapt_onnx.graph.nodes import STANDARD, node_name


def infer_types(
    node: onnx.NodeProto,
    version: int,
    types: Mapping[str, onnx.TypeProto],
    values: Mapping[str, onnx.TensorProto],
    opsets: Sequence[onnx.OperatorSetIdProto],
) -> Mapping[str, onnx.TypeProto] | None:
    """The types that ONNX infers of a node's outputs, as far as it infers any.

    Args:
        node: the node.
        version: the version of its operator's domain.
        types: those of all tensors that it reads.
        values: what is known of their values.
        opsets: the versions of all domains, for the node's subgraphs.

    Returns:
        Types by output, None for an operator that ONNX does not know.

    Raises:
        NetadaptError: (`unrunnable`, with the node) where types or shapes contradict each other.
    """
    domain = "" if node.domain in STANDARD else node.domain
    try:
        schema = onnx.defs.get_schema(node.op_type, version, domain)
    except (onnx.defs.SchemaError, TypeError):  # TypeError: a version beyond 32 bits
        return None
    try:
        inferred: Mapping[str, onnx.TypeProto] = onnx.shape_inference.infer_node_outputs(
            schema, node, dict(types), dict(values), opset_imports=list(opsets)
        )
    except onnx.shape_inference.InferenceError as error:
        reason = one_line(error).removeprefix("[ShapeInferenceError] ").removeprefix("[TypeInferenceError] ")
        raise NetadaptError(f"{node.op_type}: {reason}", node=node_name(node), code="unrunnable") from error
    except (RuntimeError, ValueError, KeyError, TypeError, onnx.checker.ValidationError) as error:
        message = f"{node.op_type}: {one_line(error)}"
        raise NetadaptError(message, node=node_name(node), code="unrunnable") from error
    return inferred
