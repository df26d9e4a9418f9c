"""Normalise on load: one spelling for what exporters spell in many ways. Tensor and node names stay as they were.

Constants are initializers (never nodes), initializers are not graph inputs, local functions are inlined, Identity is
gone wherever nothing outside can see it. Needs no shapes; `folding.py` does what does.
"""

from __future__ import annotations

from collections import Counter
from math import prod

import numpy as np
import onnx
from onnx import numpy_helper

from netadapt_onnx.errors import NetadaptError
from netadapt_onnx.graph.passes.hoist_loop_invariants import hoist_loop_invariants
from netadapt_onnx.graph.passes.inline_functions import inline_functions
from netadapt_onnx.graph.passes.upgrade_opset import upgrade
from netadapt_onnx.graph.subgraphs import all_bodies
from netadapt_onnx.graph.validity import require_valid_nodes

# A sparse initializer of a hundred bytes may stand for terabytes.
LARGEST_DENSE_BYTES = 1 << 31
# onnx-graphsurgeon and the checker refuse IR 3 models whose initializers are no longer inputs.
MINIMUM_IR = 4


def normalise(proto: onnx.ModelProto) -> None:
    """Normalise in place. Raises NetadaptError for what cannot be normalised: names that two tensors share, say."""
    upgrade(proto)
    if proto.functions:
        inline_functions(proto)
        require_valid_nodes(proto)
    _densify(proto.graph)
    proto.ir_version = max(proto.ir_version, MINIMUM_IR)
    proto.graph.name = proto.graph.name or "graph"  # the checker wants one, no runtime does
    _refuse_duplicates(proto.graph)
    _drop_initializer_inputs(proto.graph)
    normalise_graph(proto.graph)
    _keep_declared(proto.graph)


def normalise_graph(graph: onnx.GraphProto) -> None:
    """Constant nodes become initializers, Identity nodes go, loops read what never changes from outside."""
    _constants_to_initializers(graph)
    _inline_identities(graph)
    hoist_loop_invariants(graph)


def _keep_declared(graph: onnx.GraphProto) -> None:
    """Declared shapes go, which surgery makes wrong, but for those of operators that nobody else can tell them of."""
    foreign = {name for node in graph.node if node.domain not in ("", "ai.onnx") for name in node.output}
    kept = [onnx.ValueInfoProto.FromString(v.SerializeToString()) for v in graph.value_info if v.name in foreign]
    del graph.value_info[:]
    graph.value_info.extend(kept)


def _densify(graph: onnx.GraphProto) -> None:
    """Sparse initializers become dense ones of the same name."""
    for sparse in graph.sparse_initializer:
        graph.initializer.append(dense(sparse))
    del graph.sparse_initializer[:]


def dense(sparse: onnx.SparseTensorProto) -> onnx.TensorProto:
    """The same tensor with its zeros. Raises NetadaptError if its indices do not fit or it would be huge."""
    name, shape = sparse.values.name, tuple(sparse.dims)
    values, indices = numpy_helper.to_array(sparse.values), numpy_helper.to_array(sparse.indices)
    if prod(shape) * values.itemsize > LARGEST_DENSE_BYTES:
        raise NetadaptError(f"sparse initializer '{name}' {shape} is too large to be stored dense", code="unsupported")
    whole = np.zeros(prod(shape), values.dtype)
    try:
        flat = indices if indices.ndim == 1 else np.ravel_multi_index(tuple(indices.T), shape)
        whole[flat] = values
    except (IndexError, ValueError) as error:
        raise NetadaptError(f"sparse initializer '{name}' has indices beyond {shape}", code="not-onnx") from error
    return numpy_helper.from_array(whole.reshape(shape), name)


def _refuse_duplicates(graph: onnx.GraphProto) -> None:
    seen: set[str] = {v.name for v in graph.input} | {t.name for t in graph.initializer}
    twice = [name for name, count in Counter(t.name for t in graph.initializer).items() if count > 1]
    if twice:
        raise NetadaptError(f"two initializers share the name '{twice[0]}'", code="not-onnx")
    for node in graph.node:
        for name in filter(None, node.output):
            if name in seen:
                raise NetadaptError(f"tensor '{name}' is produced twice", code="not-onnx")
            seen.add(name)


def _drop_initializer_inputs(graph: onnx.GraphProto) -> None:
    names = {t.name for t in graph.initializer}
    kept = [v for v in graph.input if v.name not in names]
    if len(kept) < len(graph.input):
        del graph.input[:]
        graph.input.extend(kept)


def constant_value(node: onnx.NodeProto) -> onnx.TensorProto | None:
    """The tensor of a Constant node; None for strings."""
    attribute = node.attribute[0] if node.attribute else None
    if attribute is None:
        return None
    if attribute.name == "sparse_value":
        return dense(attribute.sparse_tensor)
    if attribute.name == "value":
        tensor: onnx.TensorProto = attribute.t
        return tensor
    dtypes = {"value_float": np.float32, "value_floats": np.float32, "value_int": np.int64, "value_ints": np.int64}
    if attribute.name not in dtypes:
        return None
    return numpy_helper.from_array(np.array(onnx.helper.get_attribute_value(attribute), dtypes[attribute.name]))


def _constants_to_initializers(graph: onnx.GraphProto) -> None:
    kept = []
    for node in graph.node:
        tensor = constant_value(node) if node.op_type == "Constant" and node.domain in ("", "ai.onnx") else None
        if tensor is None:
            kept.append(node)
            continue
        added = graph.initializer.add()
        added.CopyFrom(tensor)
        added.name = node.output[0]
    _replace_nodes(graph, kept)


def _inline_identities(graph: onnx.GraphProto) -> None:
    outputs = {v.name for v in graph.output}
    alias: dict[str, str] = {}
    kept = []
    for node in graph.node:
        if node.op_type == "Identity" and node.domain in ("", "ai.onnx") and node.output[0] not in outputs:
            alias[node.output[0]] = alias.get(node.input[0], node.input[0])
        else:
            kept.append(node)
    if not alias:
        return
    for node in (*kept, *(inner for body in all_bodies(kept) for inner in body.node)):
        for i, name in enumerate(node.input):
            if name in alias:
                node.input[i] = alias[name]
    for body in all_bodies(kept):
        for value in body.output:
            if value.name in alias:
                raise NetadaptError(f"a subgraph returns the outer tensor '{value.name}' directly", code="unsupported")
    _replace_nodes(graph, kept)


def _replace_nodes(graph: onnx.GraphProto, nodes: list[onnx.NodeProto]) -> None:
    if len(nodes) < len(graph.node):
        copies = [onnx.NodeProto.FromString(n.SerializeToString()) for n in nodes]
        del graph.node[:]
        graph.node.extend(copies)
