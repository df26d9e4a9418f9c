"""Normalise on load: one spelling for what exporters spell in many ways. Tensor and node names stay as they were.

Constants are initializers (never nodes), initializers are not graph inputs, local functions are inlined, Identity is
gone wherever nothing outside can see it. Needs no shapes; `folding.py` does what does.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import onnx
import onnx.inliner
from onnx import numpy_helper

from netadapt_onnx.errors import NetadaptError

# onnx-graphsurgeon and the checker refuse IR 3 models whose initializers are no longer inputs.
MINIMUM_IR = 4


def normalise(proto: onnx.ModelProto) -> None:
    """Normalise in place. Raises NetadaptError for what cannot be normalised (sparse initializers, duplicate names)."""
    if proto.functions:
        inlined = onnx.inliner.inline_local_functions(proto)
        proto.CopyFrom(inlined)
    if proto.graph.sparse_initializer:
        name = proto.graph.sparse_initializer[0].values.name
        raise NetadaptError(f"sparse initializer '{name}'", hint="store it dense", code="unsupported")
    proto.ir_version = max(proto.ir_version, MINIMUM_IR)
    _refuse_duplicates(proto.graph)
    _drop_initializer_inputs(proto.graph)
    normalise_graph(proto.graph)
    del proto.graph.value_info[:]  # stale after any surgery; execution gives the shapes


def normalise_graph(graph: onnx.GraphProto) -> None:
    """Constant nodes become initializers, Identity nodes go."""
    _constants_to_initializers(graph)
    _inline_identities(graph)


def _refuse_duplicates(graph: onnx.GraphProto) -> None:
    seen: set[str] = {v.name for v in graph.input} | {t.name for t in graph.initializer}
    if len({t.name for t in graph.initializer}) < len(graph.initializer):
        raise NetadaptError("two initializers share a name", code="not-onnx")
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
    """The tensor of a Constant node; None for the kinds that have no dense tensor (sparse, string lists)."""
    attribute = node.attribute[0] if node.attribute else None
    if attribute is None:
        return None
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
    for node in _with_subgraphs(kept):
        for i, name in enumerate(node.input):
            if name in alias:
                node.input[i] = alias[name]
    for body in _subgraphs(kept):
        for value in body.output:
            if value.name in alias:
                raise NetadaptError(f"a subgraph returns the outer tensor '{value.name}' directly", code="unsupported")
    _replace_nodes(graph, kept)


def _replace_nodes(graph: onnx.GraphProto, nodes: list[onnx.NodeProto]) -> None:
    if len(nodes) < len(graph.node):
        copies = [onnx.NodeProto.FromString(n.SerializeToString()) for n in nodes]
        del graph.node[:]
        graph.node.extend(copies)


def _subgraphs(nodes: list[onnx.NodeProto]) -> Iterator[onnx.GraphProto]:
    for node in nodes:
        for attribute in node.attribute:
            for body in [attribute.g] if attribute.HasField("g") else list(attribute.graphs):
                yield body
                yield from _subgraphs(list(body.node))


def _with_subgraphs(nodes: list[onnx.NodeProto]) -> Iterator[onnx.NodeProto]:
    yield from nodes
    for body in _subgraphs(nodes):
        yield from body.node
