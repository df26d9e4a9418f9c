"""Fold a model: whatever does not depend on the values of its inputs becomes a constant.

Shape subgraphs hold channel counts as constants, so no cut is safe while they are alive. The network itself is not run
for it (`shape_inference.py`). What depends on the batch size stays dynamic: the model is evaluated at two batch sizes
and the difference is written back.
"""

from __future__ import annotations

import graphlib
import re
from collections.abc import Iterable, Mapping, Set
from dataclasses import dataclass, field
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import numpy_helper

from netadapt_onnx.errors import NetadaptError
from netadapt_onnx.graph.dynamic_dims import FURTHER, dynamic_dims, fix, longer, moving, wildcards
from netadapt_onnx.graph.lazy_weights import weights_as_inputs, without_weights
from netadapt_onnx.graph.loadable import Interface
from netadapt_onnx.graph.model import Shapes, dynamic_batch_inputs, input_specs, node_name
from netadapt_onnx.graph.passes.inline_if import inline_decided
from netadapt_onnx.graph.required_shapes import declare_outputs, refuse_open, refuse_other_shapes
from netadapt_onnx.graph.runtime import lacks_operator, session
from netadapt_onnx.graph.shape_inference import Evaluation, Known, declared_specs
from netadapt_onnx.graph.single_node import SingleNodes
from netadapt_onnx.graph.size_trials import agrees, fits_of
from netadapt_onnx.graph.subgraphs import captured
from netadapt_onnx.graph.symbolic_batch import SymbolicBatch
from netadapt_onnx.graph.unread_weights import READS_SHAPE_ONLY

# Views of weights: the initializer stays the parameter, under its own name, and surgery and training look through them.
KEPT_ON_WEIGHTS = {"Transpose", "Cast", "DequantizeLinear", "QuantizeLinear"}
# A constant that would grow the file by more than this (an expanded grid, say) is left to be computed.
LARGEST_GROWTH_BYTES = 1 << 20

Tensors = Mapping[str, onnx.TensorProto]


@dataclass(frozen=True)
class Folded:
    """A model without shape arithmetic, and the shape of every tensor of it at one batch size.

    `proto` is read-only by agreement. `shapes` has inputs, initializers and all node outputs; `dtypes` likewise; those
    behind an operator whose shapes nothing tells are missing. `unrunnable` says what onnxruntime lacks to run the
    model, if anything; `assumed` names outputs of such operators that were taken to have their input's shape, `sampled`
    tensors whose shape may depend on the data; `fixed` are inputs whose free axes got the given sizes. `unknown` says
    of tensors without a shape why, `untraced` of subgraphs that were left where they are
    (`surgery/flatten_subgraphs.py`); `given` are the shapes that were asked for, `unrun` what nodes put out that cannot
    be run, `unfinished` which nodes were not run to their end for a shape or a value, which would take too long or too
    much memory. `file` is the model file if weights were left outside it (`unread_weights.py`).
    """

    proto: onnx.ModelProto
    shapes: Mapping[str, tuple[int, ...]]
    dtypes: Mapping[str, np.dtype[Any]]
    specs: Known
    batch_size: int
    unrunnable: str | None = None
    assumed: tuple[str, ...] = ()
    sampled: frozenset[str] = frozenset()
    fixed: tuple[str, ...] = ()
    unknown: Mapping[str, str] = field(default_factory=dict)
    untraced: Mapping[str, str] = field(default_factory=dict)
    given: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    unrun: frozenset[str] = frozenset()
    unfinished: tuple[str, ...] = ()
    file: Path | None = None

    def interface(self, shapes: Mapping[str, tuple[int, ...]] | None = None) -> Interface:
        """What the model takes and returns, or one made of it, whose tensors have the given `shapes`."""
        now = self.shapes if shapes is None else shapes
        values = {v.name: (now[v.name], self.dtypes[v.name]) for v in self.proto.graph.output if self._tells(v.name)}
        inputs = {name: (now.get(name, shape), dtype) for name, (shape, dtype) in self.specs.items()}
        return Interface(inputs, values, self.proto)

    def _tells(self, name: str) -> bool:
        return name in self.shapes and name not in self.sampled


def fold(
    proto: onnx.ModelProto,
    shapes: Shapes | None = None,
    batch_size: int = 1,
    *,
    in_place: bool = False,
    loops: bool = True,
    inner: bool = False,
) -> Folded:
    """Fold a normalised model; with `in_place` in place, which spares a copy of its weights.

    Without `loops` no body of a loop or branch is run for its shapes. `inner`: it is the body of a model that
    onnxruntime has loaded, whose inputs' shapes it did not know.

    Raises NetadaptError for a missing shape, and where shapes or types contradict each other or onnxruntime refuses the
    graph. Operators that it merely lacks are no obstacle.
    """
    work = without_weights(proto)
    tensors = {t.name: t for t in proto.graph.initializer}
    for graph in (work.graph, proto.graph) if in_place else (work.graph,):
        given = declare_outputs(graph, shapes or {}, tensors)
    _sort(work.graph, tensors)
    single = SingleNodes(proto.opset_import, loops=loops)

    def evaluated(sizes: Shapes) -> Evaluation:
        return _evaluate(work, tensors, input_specs(work, sizes, batch_size), batch_size, single)

    refuse_open(proto, given, batch_size, fits_of(work, tensors, evaluated) if loops else None)
    specs = input_specs(proto, given, batch_size)
    evaluation = _evaluate(work, tensors, specs, batch_size, single)
    while inline_decided(work.graph, _conditions(work.graph, tensors, evaluation)):
        tensors |= {t.name: t for t in work.graph.initializer}
        _sort(work.graph, tensors)
        evaluation = _evaluate(work, tensors, specs, batch_size, single)
    batched = dynamic_batch_inputs(proto)
    other = None
    if batched and any(_from_shapes(work.graph)):
        other = _at_next_batch(work, tensors, specs, batched, batch_size, single)
    shape_made = _from_shapes(work.graph)
    free = dynamic_dims(proto) if shape_made else {}
    at = [longer(specs, free, by) for by in FURTHER] if free else []
    elsewhere = [found for sizes in at if (found := _tried(work, tensors, sizes, batch_size, single)) is not None]
    fixed = bool(free) and not elsewhere
    moved = moving(shape_made, evaluation, elsewhere)
    targets = wildcards(moved, evaluation, work.graph.node)
    nodes, numbers = _written_back(work, tensors, evaluation, other, batched, moved.keys() - targets.keys())
    numbers = [targets.get(tensor.name, tensor) for tensor in numbers]
    folded = proto if in_place else without_weights(work)
    _replace(folded.graph, nodes, numbers)
    if fixed:
        fix(folded.graph, free, specs)
    known: Known = evaluation.known
    refuse_other_shapes(shapes or {}, known)
    produced = {name for node in folded.graph.node for name in node.output if name}
    if not produced <= known.keys() | evaluation.opaque.keys():  # nodes added by the write-back
        constants = {t.name: t for t in folded.graph.initializer}
        known = {**known, **_evaluate(folded, constants, specs, batch_size, single).known}
    live = produced | {t.name for t in folded.graph.initializer} | set(specs)
    return Folded(
        folded,
        {name: known[name][0] for name in live if name in known},
        {name: known[name][1] for name in live if name in known},
        specs,
        batch_size,
        _lacking(folded, evaluation.opaque, inner),
        tuple(evaluation.assumed),
        frozenset(evaluation.uncertain),
        tuple(free) if fixed else (),
        {name: evaluation.opaque.get(name, "") for name in produced if name not in known},
        given=dict(shapes or {}),
        unrun=_unrun(folded.graph, evaluation),
        unfinished=tuple(evaluation.unfinished),
    )


def _unrun(graph: onnx.GraphProto, evaluation: Evaluation) -> frozenset[str]:
    """What nodes put out that failed, or of whose operator nobody could try."""
    foreign = {name for node in graph.node if node.domain not in ("", "ai.onnx") for name in node.output if name}
    return frozenset(evaluation.failed | (evaluation.opaque.keys() & foreign))


def require_runnable(folded: Folded) -> None:
    """Raise NetadaptError for a model that onnxruntime cannot run."""
    if folded.unrunnable:
        raise NetadaptError(
            f"the model cannot be run: {folded.unrunnable}",
            hint="" if folded.unknown else "`netadapt-onnx prune -o` cuts it all the same, unproven",
            code="unloadable",
        )


def follows_batch(folded: Folded) -> bool:
    """Whether a model with a dynamic batch can have another one: constants inside may depend on the size it was
    exported with.
    """
    proto, batched = folded.proto, dynamic_batch_inputs(folded.proto)
    tensors = {t.name: t for t in proto.graph.initializer}
    single = SingleNodes(proto.opset_import, loops=False)
    work = without_weights(proto)
    other = _at_next_batch(work, tensors, folded.specs, batched, folded.batch_size, single)
    if other is None:
        return False
    outputs = [value.name for value in proto.graph.output if value.name in folded.shapes and value.name in other.known]
    return not outputs or any(other.known[name][0] != folded.shapes[name] for name in outputs)


def _evaluate(
    proto: onnx.ModelProto, tensors: Tensors, specs: Known, batch_size: int, single: SingleNodes
) -> Evaluation:
    """Evaluate; shapes of opaque operators are assumed only as long as nothing in the graph contradicts it."""
    symbols = {
        dim.dim_param: size
        for value in proto.graph.input
        for dim, size in zip(value.type.tensor_type.shape.dim, specs[value.name][0], strict=False)
        if dim.dim_param
    }
    declared = declared_specs([*proto.graph.value_info, *proto.graph.output], symbols, batch_size)
    try:
        found = Evaluation(proto, tensors, specs, declared, single)
        if not found.assumed or all(agrees(value, found.known) for value in proto.graph.output):
            return found
    except NetadaptError:
        if all(node.domain in ("", "ai.onnx") for node in proto.graph.node):
            raise
    return Evaluation(proto, tensors, specs, declared, single, assume=False)


def _conditions(graph: onnx.GraphProto, tensors: Tensors, evaluation: Evaluation) -> dict[str, np.ndarray]:
    """Values of the conditions of If nodes that are decided."""
    names = [node.input[0] for node in graph.node if node.op_type == "If"]
    return {name: evaluation.value(name) for name in names if name in tensors or evaluation.has_value(name)}


def _lacking(proto: onnx.ModelProto, opaque: Mapping[str, str], inner: bool) -> str | None:
    """What onnxruntime lacks to run a graph, which it is shown without the weights; raises if the graph is wrong."""
    light = weights_as_inputs(proto)
    for value in light.graph.input if inner else ():
        value.type.tensor_type.ClearField("shape")
    try:
        session(light, optimise=False)
    except NetadaptError as error:
        if lacks_operator(error):
            found = re.search(
                r"Could not find an implementation for (\w+)\S* node with name '(.*?)'", str(error.__cause__)
            )
            return next(
                iter(opaque.values()), f"onnxruntime has no {found[1]} ('{found[2]}')" if found else error.message
            )
        raise
    return None


def _sort(graph: onnx.GraphProto, constants: Iterable[str]) -> None:
    """Topological order; raises NetadaptError on a cycle, or a tensor or an output that nothing produces."""
    producer = {name: i for i, node in enumerate(graph.node) for name in node.output if name}
    known = {*constants} | {v.name for v in graph.input} | {""}
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


def _from_shapes(graph: onnx.GraphProto) -> set[str]:
    """Tensors computed from the shape of something."""
    found: set[str] = set()
    for node in graph.node:
        if node.op_type in READS_SHAPE_ONLY or not found.isdisjoint([*node.input, *captured(node)]):
            found.update(node.output)
    return found


def _at_next_batch(
    proto: onnx.ModelProto, tensors: Tensors, specs: Known, batched: list[str], batch_size: int, single: SingleNodes
) -> Evaluation | None:
    """The same with every dynamic first axis one longer; None if the model has its batch baked in."""
    more = {name: ((shape[0] + 1, *shape[1:]), dtype) for name, (shape, dtype) in specs.items() if name in batched}
    return _tried(proto, tensors, {**specs, **more}, batch_size + 1, single)


def _tried(
    proto: onnx.ModelProto, tensors: Tensors, specs: Known, batch_size: int, single: SingleNodes
) -> Evaluation | None:
    """The evaluation at other sizes; None if the model cannot have them."""
    try:
        return _evaluate(proto, tensors, specs, batch_size, single)
    except NetadaptError as error:
        if error.code != "unrunnable":
            raise
        return None


def _written_back(
    work: onnx.ModelProto,
    tensors: Tensors,
    values: Evaluation,
    other: Evaluation | None,
    batched: list[str],
    computed_on: Set[str],
) -> tuple[list[onnx.NodeProto], list[onnx.TensorProto]]:
    """The nodes that stay, those of `computed_on` among them, and all constants.

    A formula in the batch size stands for what depends on that alone.
    """
    graph = work.graph
    shape_made = _from_shapes(graph)
    with_batch = {name for name in shape_made if other is not None and _moves(name, values, other)}
    needed = {v.name for v in graph.output}
    kept: list[onnx.NodeProto] = []
    for node in reversed(graph.node):  # what is still read once its readers are known to stay
        wanted = [name for name in node.output if name in needed]
        foldable = all(values.has_value(name) for name in wanted) and not _stays(node, tensors, values, shape_made)
        unlike = any(_open(name, values, other) for name in with_batch.intersection(wanted))
        if not foldable or unlike or not computed_on.isdisjoint(wanted):
            kept.append(node)
            needed.update([*node.input, *captured(node)])
    kept.reverse()
    produced = {name for node in kept for name in node.output}
    missing = needed - produced - tensors.keys()
    folded = [name for node in graph.node for name in node.output if name in missing]
    constants = [tensor for name, tensor in tensors.items() if name in needed]
    taken = needed | {node_name(node) for node in kept} | {v.name for v in graph.input}
    formula = SymbolicBatch(batched[0], values.known[batched[0]][0][0], values.known, taken) if batched else None
    computed: list[onnx.NodeProto] = []
    reshapes = _reshapes(kept) if formula is not None else {}
    for name in folded:
        if formula is None or other is None or name not in with_batch:
            constants.append(numpy_helper.from_array(values.value(name), name))
            continue
        nodes, numbers = formula.write(name, values.value(name), other.value(name), reshapes.get(name, []))
        computed.extend(nodes)
        constants.extend(numbers)
    if formula is not None:
        computed = [*formula.nodes, *computed]
        constants.extend(formula.constants)
    return [*computed, *kept], constants


def _replace(graph: onnx.GraphProto, nodes: list[onnx.NodeProto], constants: list[onnx.TensorProto]) -> None:
    """Give a graph these nodes and initializers; those initializers that it has already are not touched."""
    wanted = {tensor.name for tensor in constants}
    for i in range(len(graph.initializer) - 1, -1, -1):
        if graph.initializer[i].name not in wanted:
            del graph.initializer[i]
    there = {tensor.name for tensor in graph.initializer}
    graph.initializer.extend(tensor for tensor in constants if tensor.name not in there)
    del graph.node[:]
    graph.node.extend(nodes)


def _moves(name: str, values: Evaluation, other: Evaluation) -> bool:
    """Whether a tensor depends on the batch size."""
    if not (values.has_value(name) and other.has_value(name)):
        return False
    return values.known[name] != other.known[name] or not np.array_equal(values.value(name), other.value(name))


def _open(name: str, values: Evaluation, other: Evaluation | None) -> bool:
    """Whether a moving tensor depends on the batch size in a way that no formula in it gives: its shape does, say."""
    return other is None or values.known[name] != other.known[name] or values.known[name][1].kind != "i"


def _reshapes(nodes: Iterable[onnx.NodeProto]) -> dict[str, list[onnx.NodeProto]]:
    """The readers of each tensor that nothing reads but as the target to reshape to."""
    readers: dict[str, list[onnx.NodeProto]] = {}
    others: set[str] = set()
    for node in nodes:
        if node.op_type == "Reshape" and len(node.input) > 1:
            readers.setdefault(node.input[1], []).append(node)
            others.add(node.input[0])
        else:
            others.update([*node.input, *captured(node)])
    return {name: reshaping for name, reshaping in readers.items() if name not in others}


def _stays(node: onnx.NodeProto, tensors: Tensors, values: Evaluation, shape_made: set[str]) -> bool:
    outputs = [name for name in node.output if name]
    if not shape_made.isdisjoint(outputs):
        return False
    source = tensors.get(node.input[0]) if node.input else None
    if node.op_type in KEPT_ON_WEIGHTS and source is not None and len(source.dims) > 1:
        return True
    if node.op_type == "ConstantOfShape":  # weights of files that were stripped of their values
        return False
    grown = sum(_bytes(name, values.known) for name in outputs)
    read = sum(_bytes(name, values.known) for name in node.input if name)
    return grown > read + LARGEST_GROWTH_BYTES


def _bytes(name: str, known: Known) -> int:
    shape, dtype = known[name]
    return prod(shape) * dtype.itemsize
