"""Nodes and tensors of an ONNX file as training sees them.

Neighbouring nodes that torch computes in one pass over memory are one: without that a ViT's step takes 3% longer."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import replace
from functools import partial

import numpy as np
import onnx
import torch
import torch.nn.functional as F
from onnx import numpy_helper
from torch import Tensor

from netadapt_onnx.errors import NetadaptError
from netadapt_onnx.graph.nodes import node_name
from netadapt_onnx.training.ops.clipping import clip_and_pad
from netadapt_onnx.training.ops.registry import DTYPES, Function, Node


def read_nodes(proto: onnx.ModelProto) -> list[Node]:
    """The nodes of a graph, with their attributes as Python values."""
    opsets = {entry.domain or "ai.onnx": entry.version for entry in proto.opset_import}
    nodes = []
    for node in proto.graph.node:
        attributes = {a.name: _attribute(a) for a in node.attribute}
        nodes.append(
            Node(
                op=node.op_type,
                name=node_name(node),
                opset=opsets.get(node.domain or "ai.onnx", 1),
                inputs=tuple(node.input),
                outputs=tuple(node.output),
                domain=node.domain,
                attributes=attributes,
            )
        )
    return nodes


def _attribute(attribute: onnx.AttributeProto) -> object:
    value = onnx.helper.get_attribute_value(attribute)
    if isinstance(value, bytes):
        return value.decode("utf-8", "replace")
    if isinstance(value, onnx.TensorProto):
        return read_tensor(value)
    if attribute.type == onnx.AttributeProto.STRINGS:
        return [v.decode("utf-8", "replace") for v in value]
    return list(value) if attribute.type in (onnx.AttributeProto.INTS, onnx.AttributeProto.FLOATS) else value


def read_tensor(tensor: onnx.TensorProto) -> Tensor:
    """The values of a tensor, float16 and bfloat16 as float32. Raises NetadaptError for types that do not train."""
    dtype = DTYPES.get(tensor.data_type)
    if dtype is None:
        kind = onnx.TensorProto.DataType.Name(tensor.data_type)
        raise NetadaptError(f"training does not support tensor '{tensor.name}' of type {kind}", code="unsupported")
    array = numpy_helper.to_array(tensor)
    if tensor.data_type in (onnx.TensorProto.FLOAT16, onnx.TensorProto.BFLOAT16):
        array = array.astype(np.float32)
    return torch.from_numpy(np.array(array)).to(dtype)


def fused(nodes: Sequence[Node], outputs: Collection[str]) -> tuple[list[Node], dict[str, Function]]:
    """Fuse each MatMul that only an Add reads with that Add, and each Clip that only a Pad reads with that Pad.

    What is fused reads (a, b, addend), or the inputs of the Clip and then the others of the Pad.

    Args:
        nodes: A graph's nodes.
        outputs: Tensors that have to be computed.

    Returns:
        The nodes, and the functions of fused ones by output.
    """
    readers = Counter(name for node in nodes for name in node.inputs)
    read_once = [node for node in nodes if readers[node.outputs[0]] == 1 and node.outputs[0] not in outputs]
    products = {node.outputs[0]: node for node in read_once if node.op == "MatMul"}
    clips = {node.outputs[0]: node for node in read_once if node.op == "Clip"}
    merged: dict[str, Node] = {}
    functions: dict[str, Function] = {}
    absorbed: set[str] = set()
    for node in nodes:
        slot = next((i for i, name in enumerate(node.inputs) if name in products), None)
        inputs: tuple[str, ...]
        if node.op == "Add" and "axis" not in node.attributes and slot is not None:
            absorbed.add(node.inputs[slot])
            inputs = (*products[node.inputs[slot]].inputs, node.inputs[1 - slot])
            functions[node.outputs[0]] = _linear
        elif node.op == "Pad" and node.attribute("mode", "constant") == "constant" and node.inputs[0] in clips:
            absorbed.add(node.inputs[0])
            clip = clips[node.inputs[0]]
            inputs = (*clip.inputs, *node.inputs[1:])
            functions[node.outputs[0]] = partial(clip_and_pad, clip, node)
        else:
            continue
        merged[node.outputs[0]] = replace(node, inputs=inputs, constants={})
    kept = [merged.get(node.outputs[0], node) for node in nodes if node.outputs[0] not in absorbed]
    return kept, functions


def _linear(node: Node, a: Tensor, b: Tensor, addend: Tensor) -> Tensor:
    """Shapes: a (..., K), b (K, N), addend (N,); any others that MatMul and Add take are computed one by one."""
    if a.dim() > 1 and b.dim() == 2 and addend.shape == b.shape[1:]:
        return F.linear(a, b.t(), addend)
    return torch.matmul(a, b) + addend
