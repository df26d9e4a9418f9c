"""Subgraphs (If branches, Loop and Scan bodies) laid out flat for labels; `unflatten_subgraphs.py` undoes it.

Labels of tensors around a body are followed into it; what a body receives and returns keeps its shape. The flat graph
is for tracing and cutting alone and is never run: it holds a body's nodes in front of their control-flow node.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import onnx
from onnx import numpy_helper

from netadapt_onnx.errors import NetadaptError
from netadapt_onnx.graph.fold import fold
from netadapt_onnx.graph.folded_model import FoldedModel
from netadapt_onnx.graph.nodes import node_name
from netadapt_onnx.graph.passes.pipeline import normalise
from netadapt_onnx.graph.shapes import Spec, Specs
from netadapt_onnx.graph.subgraphs import captured, rename
from netadapt_onnx.graph.weightless import without_weights

CONTROL = {"If", "Loop", "Scan"}
BRANCHES = ("then_branch", "else_branch")


@dataclass(frozen=True)
class Body:
    """A subgraph in the flat graph: attribute `attribute` of the node that puts out `owner`; `name` says so to people.

    `frame` is the subgraph without its content; `names` maps the names of its tensors there to those inside.
    """

    name: str
    owner: str
    attribute: str
    frame: onnx.GraphProto
    names: Mapping[str, str]

    @cached_property
    def inputs(self) -> tuple[str, ...]:
        """What it receives, by flat names."""
        flat = {inner: outer for outer, inner in self.names.items()}
        return tuple(flat[value.name] for value in self.frame.input)

    @cached_property
    def outputs(self) -> tuple[str, ...]:
        """What it returns, by flat names; tensors of the graphs around it keep theirs."""
        flat = {inner: outer for outer, inner in self.names.items()}
        return tuple(flat.get(value.name, value.name) for value in self.frame.output)


def flatten(folded: FoldedModel, *, loops: bool = True) -> tuple[FoldedModel, tuple[Body, ...]]:
    """The model with all bodies laid out flat, innermost first; unchanged if it has none.

    A body whose shapes cannot be told stays where it is (`untraced` of the result says why) and pins what it reads.
    Without `loops` none is run for its shapes.
    """
    if not any(_attributes(node) for node in folded.proto.graph.node):
        return folded, ()
    moving = _moving(folded, loops)
    graph = folded.proto.graph
    constants = {t.name: t for t in graph.initializer}
    known: dict[str, Spec] = {name: (shape, folded.dtypes[name]) for name, shape in folded.shapes.items()}
    nodes: list[onnx.NodeProto] = []
    added: list[onnx.TensorProto] = []
    bodies: list[Body] = []
    untraced: dict[str, str] = {}
    for node in graph.node:
        parts: list[tuple[FoldedModel, list[Body]]] = []
        kept: dict[str, str] = {}
        for attribute in _attributes(node):
            try:
                parts.append(_opened(node, attribute, folded, known, constants, moving, loops))
            except NetadaptError as error:
                kept[attribute.name] = error.message
        untraced |= {f"{node_name(node)}/{name}": reason for name, reason in kept.items()}
        placed = node
        if parts:
            placed = onnx.NodeProto()
            placed.CopyFrom(node)
            outside = [a for a in placed.attribute if not a.HasField("g") or a.name in kept]
            del placed.attribute[:]
            placed.attribute.extend(outside)
        for inner, inner_bodies in parts:
            nodes.extend(inner.proto.graph.node)
            added.extend(inner.proto.graph.initializer)
            known |= {name: (shape, inner.dtypes[name]) for name, shape in inner.shapes.items()}
            bodies.extend(inner_bodies)
            untraced |= inner.untraced
        nodes.append(placed)
    proto = without_weights(folded.proto)
    del proto.graph.node[:]
    proto.graph.node.extend(nodes)
    proto.graph.initializer.extend([*graph.initializer, *added])
    shapes = {name: shape for name, (shape, _) in known.items()}
    dtypes = {name: dtype for name, (_, dtype) in known.items()}
    return replace(folded, proto=proto, shapes=shapes, dtypes=dtypes, untraced=untraced), tuple(bodies)


def _attributes(node: onnx.NodeProto) -> list[onnx.AttributeProto]:
    return [a for a in node.attribute if a.HasField("g")] if node.op_type in CONTROL else []


def _moving(folded: FoldedModel, loops: bool) -> set[str]:
    """Tensors whose first axis is the batch."""
    batched = {v.name for v in folded.proto.graph.input if not v.type.tensor_type.shape.dim[:1] or _open_axis(v)}
    given = {n: (s[0] + 1, *s[1:]) if n in batched and s else s for n, (s, _) in folded.specs.items()}
    try:
        other = fold(folded.proto, given, folded.batch_size + 1, loops=loops).shapes
    except NetadaptError:
        return set()
    return {name for name, shape in folded.shapes.items() if shape and other.get(name, shape)[:1] != shape[:1]}


def _open_axis(value: onnx.ValueInfoProto) -> bool:
    return not value.type.tensor_type.shape.dim[0].HasField("dim_value")


def _opened(
    node: onnx.NodeProto,
    attribute: onnx.AttributeProto,
    around: FoldedModel,
    known: Specs,
    constants: Mapping[str, onnx.TensorProto],
    moving: set[str],
    loops: bool,
) -> tuple[FoldedModel, list[Body]]:
    """One body folded, flattened and renamed. Raises NetadaptError if its shapes cannot be told."""
    model = onnx.ModelProto(ir_version=around.proto.ir_version, opset_import=around.proto.opset_import)
    model.graph.CopyFrom(attribute.g)
    formals = _received(node, attribute.g, known)
    outer = [name for name in captured(node) if name not in formals]
    model.graph.initializer.extend(constants[name] for name in outer if name in constants)
    given = dict(formals) | {name: known[name] for name in outer if name not in constants and name in known}
    sources = dict(zip((v.name for v in attribute.g.input), _sources(node, attribute.g), strict=True))
    del model.graph.input[:]
    for name, (shape, dtype) in given.items():
        axes: list[int | str] = list(shape)
        if shape and sources.get(name, name) in moving:
            axes[0] = "batch"
        code = onnx.helper.np_dtype_to_tensor_dtype(dtype)
        model.graph.input.append(onnx.helper.make_tensor_value_info(name, code, axes))
    normalise(model)
    folded = fold(
        model, {name: shape for name, (shape, _) in given.items()}, around.batch_size, loops=loops, inner=True
    )
    if folded.unrunnable:
        raise NetadaptError(folded.unrunnable)
    folded, inner = flatten(_with_returned_constants(folded, outer), loops=loops)
    return _renamed(node, attribute, folded, inner, set(formals), set(outer))


def _with_returned_constants(folded: FoldedModel, outer: Sequence[str]) -> FoldedModel:
    """What a body returns must be a node's output: where folding left a constant, an Identity puts it out."""
    graph = folded.proto.graph
    returned = {value.name for value in graph.output} & {t.name for t in graph.initializer} - {*outer}
    renamed = {name: f"{name}/constant" for name in returned}
    if not returned:
        return folded
    for node in graph.node:
        rename(node, renamed)
    for tensor in graph.initializer:
        tensor.name = renamed.get(tensor.name, tensor.name)
    graph.node.extend(onnx.helper.make_node("Identity", [inner], [name], name=name) for name, inner in renamed.items())
    shapes = {**folded.shapes, **{inner: folded.shapes[name] for name, inner in renamed.items()}}
    dtypes = {**folded.dtypes, **{inner: folded.dtypes[name] for name, inner in renamed.items()}}
    return replace(folded, shapes=shapes, dtypes=dtypes)


def _sources(node: onnx.NodeProto, body: onnx.GraphProto) -> list[str]:
    """For each formal input of a body the outer tensor it starts from, '' for counters and slices."""
    if node.op_type == "Loop":
        return ["", "", *list(node.input)[2:]]
    scanned = next((a.i for a in node.attribute if a.name == "num_scan_inputs"), 0)
    states = len(node.input) - scanned
    return [*list(node.input)[:states], *[""] * scanned][: len(body.input)]


def _received(node: onnx.NodeProto, body: onnx.GraphProto, known: Specs) -> dict[str, Spec]:
    """Shape and type of a body's formal inputs: carried values keep the shapes that they start with."""
    names = [v.name for v in body.input]
    if node.op_type == "If" or not names:
        return {}
    given: list[str] = list(node.input)
    if node.op_type == "Loop":
        specs: list[Spec] = [((), np.dtype(np.int64)), ((), np.dtype(bool))]
        specs += [_spec(name, known) for name in given[2:]]
    else:
        attributes: dict[str, Any] = {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute}
        scanned = int(attributes["num_scan_inputs"])
        states = len(given) - scanned
        axes = attributes.get("scan_input_axes", [0] * scanned)
        specs = [_spec(name, known) for name in given[:states]]
        for name, axis in zip(given[states:], axes, strict=True):
            shape, dtype = _spec(name, known)
            specs.append((tuple(np.delete(shape, axis).tolist()), dtype))
    if len(specs) != len(names):
        raise NetadaptError(f"'{node_name(node)}' gives its body {len(specs)} of {len(names)} inputs")
    return dict(zip(names, specs, strict=True))


def _spec(name: str, known: Specs) -> Spec:
    if name not in known:
        raise NetadaptError(f"the shape of '{name}' is not known")
    return known[name]


def _renamed(
    node: onnx.NodeProto,
    attribute: onnx.AttributeProto,
    folded: FoldedModel,
    inner: Sequence[Body],
    formals: set[str],
    outer: set[str],
) -> tuple[FoldedModel, list[Body]]:
    """Give everything of a body names that say where it is; tensors from outside keep theirs."""
    prefix = f"{node_name(node)}/{attribute.name}/"
    graph = folded.proto.graph
    own = {name for n in graph.node for name in n.output if name} | {t.name for t in graph.initializer} | formals
    own |= {name for body in inner for name in body.names}  # what bodies inside receive is no node's output
    own -= outer
    flat = {name: prefix + name for name in own}
    for each in graph.node:
        each.name = prefix + node_name(each)
        rename(each, flat)
    tensors = [t for t in graph.initializer if t.name not in outer]
    for tensor in tensors:
        tensor.name = flat[tensor.name]
    proto = without_weights(folded.proto)
    proto.graph.initializer.extend(tensors)
    frame = onnx.GraphProto(name=attribute.g.name, input=attribute.g.input, output=attribute.g.output)
    nested = {name for body in inner for name in body.names}
    body = Body(
        prefix[:-1],
        next(name for name in node.output if name),
        attribute.name,
        frame,
        {flat[name]: name for name in own if name not in nested},
    )
    moved = [
        Body(prefix + b.name, flat[b.owner], b.attribute, b.frame, {flat.get(k, k): v for k, v in b.names.items()})
        for b in inner
    ]
    shapes = {flat[name]: shape for name, shape in folded.shapes.items() if name in flat}
    dtypes = {flat[name]: dtype for name, dtype in folded.dtypes.items() if name in flat}
    untraced = {prefix + name: reason for name, reason in folded.untraced.items()}
    return replace(folded, proto=proto, shapes=shapes, dtypes=dtypes, untraced=untraced), [*moved, body]


def taking(proto: onnx.ModelProto, branch: str = "", untraced: Collection[str] = ()) -> onnx.ModelProto:
    """A copy whose If nodes all take one branch, whatever their conditions say; those with one untraced the other.

    Without `branch` the conditions of all others decide.
    """
    copy = onnx.ModelProto()
    copy.CopyFrom(proto)
    _take(copy.graph, branch, untraced)
    return copy


def _take(graph: onnx.GraphProto, branch: str, untraced: Collection[str]) -> None:
    for node in graph.node:
        possible = [name for name in BRANCHES if f"{node_name(node)}/{name}" not in untraced]
        taken = possible[0] if len(possible) == 1 else branch
        if node.op_type == "If" and taken:
            name = f"{node_name(node)}/{taken}/taken"
            graph.initializer.append(numpy_helper.from_array(np.array(taken == BRANCHES[0]), name))
            node.input[0] = name
        for attribute in node.attribute:
            if attribute.HasField("g"):
                _take(attribute.g, branch, untraced)
