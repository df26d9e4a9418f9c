"""Fold by execution: run the model once, and whatever does not depend on the values of its inputs becomes a constant.

Static shape inference knows the shapes of about half of real exports; execution knows all of them. Shape subgraphs
hold channel counts as constants, so no cut is safe while they are alive. What depends on the batch size stays dynamic:
the model is run at two batch sizes and the difference is written back.
"""

from __future__ import annotations

import graphlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from onnx import numpy_helper

from netadapt_onnx.batch_formula import BatchFormula, Known
from netadapt_onnx.control_flow import captured, inline_decided
from netadapt_onnx.errors import NetadaptError
from netadapt_onnx.model import Shapes, dynamic_batch_inputs, input_specs
from netadapt_onnx.runtime import Arrays, random_inputs, run, session

READS_SHAPE_ONLY = {"Shape", "Size"}
READS_TYPE_OF_SECOND = {"CastLike"}
RANDOM = {"RandomNormal", "RandomUniform", "RandomNormalLike", "RandomUniformLike", "Bernoulli", "Multinomial"}
# Views of weights: the initializer stays the parameter, under its own name, and surgery and training look through them.
KEPT_ON_WEIGHTS = {"Transpose", "Cast", "DequantizeLinear", "QuantizeLinear"}
# A constant that would grow the file by more than this (an expanded grid, say) is left to be computed.
LARGEST_GROWTH_BYTES = 1 << 20


@dataclass(frozen=True)
class Folded:
    """A model without shape arithmetic, and the shape of every tensor of it at one batch size.

    `proto` is read-only by agreement. `shapes` has inputs, initializers and all node outputs; `dtypes` likewise.
    """

    proto: onnx.ModelProto
    shapes: Mapping[str, tuple[int, ...]]
    dtypes: Mapping[str, np.dtype[Any]]
    specs: Mapping[str, tuple[tuple[int, ...], np.dtype[Any]]]
    batch_size: int


def fold(proto: onnx.ModelProto, shapes: Shapes | None = None, batch_size: int = 1) -> Folded:
    """Fold a normalised model. Raises NetadaptError if onnxruntime cannot load or run it, or a shape is missing."""
    specs = input_specs(proto, shapes, batch_size)
    folded = onnx.ModelProto()
    folded.CopyFrom(proto)
    _sort(folded.graph)
    values, exposed = _execute(folded, specs)
    while inline_decided(folded.graph, values):
        values, exposed = _execute(folded, specs)
    other: Arrays = {}
    batched = dynamic_batch_inputs(proto)
    if batched and any(_from_shapes(folded.graph)):
        other = _at_next_batch(folded, specs, batched, list(values))
    _write_back(folded, values, other, batched, exposed | specs)
    known = exposed | {t.name: (tuple(t.dims), _dtype(t.data_type)) for t in folded.graph.initializer} | specs
    produced = {name for node in folded.graph.node for name in node.output if name}
    if not produced <= known.keys():  # nodes added by the write-back
        known |= _execute(folded, specs)[1]
    live = produced | {t.name for t in folded.graph.initializer} | set(specs)
    return Folded(
        folded,
        {name: known[name][0] for name in live if name in known},
        {name: known[name][1] for name in live if name in known},
        specs,
        batch_size,
    )


def _dtype(code: int) -> np.dtype[Any]:
    return np.dtype(onnx.helper.tensor_dtype_to_np_dtype(code))


def _sort(graph: onnx.GraphProto) -> None:
    """Topological order; raises NetadaptError on a cycle, or a tensor or an output that nothing produces."""
    producer = {name: i for i, node in enumerate(graph.node) for name in node.output if name}
    known = {t.name for t in graph.initializer} | {v.name for v in graph.input} | {""}
    needs: dict[int, list[int]] = {}
    for i, node in enumerate(graph.node):
        names = [*node.input, *captured(node)]
        missing = [name for name in names if name not in producer and name not in known]
        if missing:
            raise NetadaptError(f"nothing produces tensor '{missing[0]}'", node=node_name(node), code="not-onnx")
        needs[i] = [producer[name] for name in names if name in producer]
    open_end = next((v.name for v in graph.output if v.name not in producer and v.name not in known), None)
    if open_end is not None:
        raise NetadaptError(f"nothing produces the output '{open_end}'", code="not-onnx")
    if all(j < i for i, js in needs.items() for j in js):
        return
    try:
        order = list(graphlib.TopologicalSorter(needs).static_order())
    except graphlib.CycleError as error:
        raise NetadaptError("the graph has a cycle", node=node_name(graph.node[error.args[1][0]])) from error
    nodes = [onnx.NodeProto.FromString(graph.node[i].SerializeToString()) for i in order]
    del graph.node[:]
    graph.node.extend(nodes)


def node_name(node: onnx.NodeProto) -> str:
    """A node's name; one without is called after its first output."""
    return node.name or next((name for name in node.output if name), node.op_type)


def _tainted(graph: onnx.GraphProto) -> set[str]:
    """Tensors that depend on the values (not only on the shapes) of the graph's inputs."""
    tainted = {v.name for v in graph.input}
    for node in graph.node:
        read = node.input[:1] if node.op_type in READS_TYPE_OF_SECOND else node.input
        reads = not tainted.isdisjoint([*read, *captured(node)]) and node.op_type not in READS_SHAPE_ONLY
        if reads or node.op_type in RANDOM:
            tainted.update(node.output)
    tainted.discard("")
    return tainted


def _from_shapes(graph: onnx.GraphProto) -> set[str]:
    """Tensors computed from the shape of something."""
    found: set[str] = set()
    for node in graph.node:
        if node.op_type in READS_SHAPE_ONLY or not found.isdisjoint([*node.input, *captured(node)]):
            found.update(node.output)
    return found


def _execute(
    proto: onnx.ModelProto, specs: Mapping[str, tuple[tuple[int, ...], np.dtype[Any]]]
) -> tuple[Arrays, dict[str, tuple[tuple[int, ...], np.dtype[Any]]]]:
    """Values of the untainted tensors, and (shape, dtype) of every node output that is a tensor."""
    tainted = _tainted(proto.graph)
    names = [name for node in proto.graph.node for name in node.output if name]
    results = _execute_at(proto, specs, names)
    tensors = {k: v for k, v in results.items() if isinstance(v, np.ndarray)}
    values = {name: value for name, value in tensors.items() if name not in tainted}
    return values, {name: (value.shape, value.dtype) for name, value in tensors.items()}


def _at_next_batch(proto: onnx.ModelProto, specs: Known, batched: list[str], names: list[str]) -> Arrays:
    """The same tensors with every dynamic first axis one longer; none if the model has its batch baked in."""
    longer = {name: ((shape[0] + 1, *shape[1:]), dtype) for name, (shape, dtype) in specs.items() if name in batched}
    try:
        return _execute_at(proto, {**specs, **longer}, names)
    except NetadaptError as error:
        if error.code != "unrunnable":
            raise
        return {}


def _execute_at(
    proto: onnx.ModelProto, specs: Mapping[str, tuple[tuple[int, ...], np.dtype[Any]]], names: list[str]
) -> Arrays:
    if not names:
        return {}
    saved = [onnx.ValueInfoProto.FromString(v.SerializeToString()) for v in proto.graph.output]
    del proto.graph.output[:]
    proto.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names)
    try:
        return run(session(proto, optimise=False), random_inputs(specs), names)
    finally:
        del proto.graph.output[:]
        proto.graph.output.extend(saved)


def _write_back(proto: onnx.ModelProto, values: Arrays, other: Arrays, batched: list[str], known: Known) -> None:
    """Replace untainted nodes: constants where nothing depends on the batch, a formula in the batch size elsewhere."""
    graph = proto.graph
    shape_made = _from_shapes(graph)
    weights = {t.name: t for t in graph.initializer}
    needed = {v.name for v in graph.output}
    kept: list[onnx.NodeProto] = []
    for node in reversed(graph.node):  # what is still read once its readers are known to stay
        wanted = [name for name in node.output if name in needed]
        foldable = all(name in values for name in wanted) and not _stays(node, weights, values, shape_made)
        if not foldable or any(_open(name, values, other, shape_made, batched) for name in wanted):
            kept.append(onnx.NodeProto.FromString(node.SerializeToString()))
            needed.update([*node.input, *captured(node)])
    kept.reverse()
    produced = {name for node in kept for name in node.output}
    folded = [name for node in graph.node for name in node.output if name in needed - produced and name in values]
    _drop_initializers(graph, needed)
    taken = (
        needed
        | {node_name(node) for node in kept}
        | {t.name for t in graph.initializer}
        | {v.name for v in graph.input}
    )
    formula = BatchFormula(batched[0], known[batched[0]][0][0], known, taken) if batched else None
    computed: list[onnx.NodeProto] = []
    for name in folded:
        if formula is None or name not in shape_made or name not in other or _equal(values[name], other[name]):
            graph.initializer.append(numpy_helper.from_array(values[name], name))
            continue
        nodes, constants = formula.write(name, values[name], other[name], _reshapes(name, kept))
        computed.extend(nodes)
        graph.initializer.extend(constants)
    if formula is not None:
        computed = [*formula.nodes, *computed]
        graph.initializer.extend(formula.constants)
    del graph.node[:]
    graph.node.extend([*computed, *kept])


def _open(name: str, values: Arrays, other: Arrays, shape_made: set[str], batched: list[str]) -> bool:
    """Whether a tensor depends on the batch size in a way that no formula in it gives (its shape does, say)."""
    if not batched or name not in shape_made or name not in other or _equal(values[name], other[name]):
        return False
    a, b = values[name], other[name]
    return not isinstance(b, np.ndarray) or a.shape != b.shape or a.dtype.kind != "i"


def _reshapes(name: str, nodes: list[onnx.NodeProto]) -> list[onnx.NodeProto]:
    """The readers of a tensor, if all of them reshape to it; else none."""
    readers = [node for node in nodes if name in node.input or name in captured(node)]
    return readers if all(n.op_type == "Reshape" and list(n.input).index(name) == 1 for n in readers) else []


def _stays(node: onnx.NodeProto, weights: dict[str, onnx.TensorProto], values: Arrays, shape_made: set[str]) -> bool:
    outputs = [name for name in node.output if name]
    if not shape_made.isdisjoint(outputs):
        return False
    source = weights.get(node.input[0]) if node.input else None
    if node.op_type in KEPT_ON_WEIGHTS and source is not None and len(source.dims) > 1:
        return True
    if node.op_type == "ConstantOfShape":  # weights of files that were stripped of their values
        return False
    grown = sum(values[name].nbytes for name in outputs)
    read = sum(values[i].nbytes if i in values else _bytes(weights.get(i)) for i in node.input if i)
    return grown > read + LARGEST_GROWTH_BYTES


def _bytes(tensor: onnx.TensorProto | None) -> int:
    return 0 if tensor is None else tensor.ByteSize()


def _equal(a: Any, b: Any) -> bool:
    return isinstance(b, np.ndarray) and a.shape == b.shape and bool(np.array_equal(a, b))


def _drop_initializers(graph: onnx.GraphProto, needed: set[str]) -> None:
    for i in range(len(graph.initializer) - 1, -1, -1):
        if graph.initializer[i].name not in needed:
            del graph.initializer[i]
