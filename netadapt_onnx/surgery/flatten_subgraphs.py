"""Subgraphs (If branches, Loop and Scan bodies) laid out flat for labels; `unflatten_subgraphs.py` undoes it.

Labels of tensors around a subgraph are followed into it; what it receives and returns keeps its shape. The flat graph
is for tracing and cutting alone and is never run: it holds a subgraph's nodes in front of their control-flow node.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import onnx
from onnx import numpy_helper

from netadapt_onnx.errors import NetadaptError
from netadapt_onnx.graph.fold_shapes import fold
from netadapt_onnx.graph.folded_model import FoldedModel
from netadapt_onnx.graph.nodes import all_subgraphs, captured, node_name, rename, replace_all
from netadapt_onnx.graph.passes.pipeline import normalise
from netadapt_onnx.graph.shapes import Spec, Specs
from netadapt_onnx.graph.weightless import without_weights

CONTROL = {"If", "Loop", "Scan"}
BRANCHES = ("then_branch", "else_branch")


@dataclass(frozen=True)
class FlatSubgraph:
    """A subgraph that was laid out flat.

    Attributes:
        name: Where it is, for people: the node and the attribute.
        owner: The first output of the node that it belongs to.
        attribute: The attribute of that node that holds it.
        frame: The subgraph without its content.
        names: The names of its tensors in the flat graph, each with the name inside the subgraph.
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


@dataclass(frozen=True)
class _Surroundings:
    """The graph around a subgraph: its tensors as far as their shapes are known, and its constants."""

    model: FoldedModel
    specs: Specs
    constants: Mapping[str, onnx.TensorProto]
    batched: Collection[str]  # tensors whose first axis is the batch
    loops: bool


def flatten(folded: FoldedModel, *, loops: bool = True) -> tuple[FoldedModel, tuple[FlatSubgraph, ...]]:
    """Lay out all subgraphs flat, innermost first; a model without any is returned as it is.

    A subgraph whose shapes cannot be inferred stays where it is (`untraced` of the result says why) and pins what it
    reads.

    Args:
        folded: The model.
        loops: Whether loops are run for the shapes inside them.
    """
    if not any(_attributes(node) for node in folded.proto.graph.node):
        return folded, ()
    graph = folded.proto.graph
    specs: dict[str, Spec] = {name: (shape, folded.dtypes[name]) for name, shape in folded.shapes.items()}
    constants = {t.name: t for t in graph.initializer}
    around = _Surroundings(folded, specs, constants, _batched(folded, loops), loops)
    nodes: list[onnx.NodeProto] = []
    added: list[onnx.TensorProto] = []
    subgraphs: list[FlatSubgraph] = []
    untraced: dict[str, str] = {}
    for node in graph.node:
        opened: set[str] = set()
        for attribute in _attributes(node):
            try:
                inner, inner_subgraphs = _opened(node, attribute, around)
            except NetadaptError as error:
                untraced[f"{node_name(node)}/{attribute.name}"] = error.message
                continue
            opened.add(attribute.name)
            nodes.extend(inner.proto.graph.node)
            added.extend(inner.proto.graph.initializer)
            specs |= {name: (shape, inner.dtypes[name]) for name, shape in inner.shapes.items()}
            subgraphs.extend(inner_subgraphs)
            untraced |= inner.untraced
        nodes.append(_without_subgraphs(node, opened) if opened else node)
    proto = without_weights(folded.proto)
    replace_all(proto.graph.node, nodes)
    proto.graph.initializer.extend([*graph.initializer, *added])
    shapes = {name: shape for name, (shape, _) in specs.items()}
    dtypes = {name: dtype for name, (_, dtype) in specs.items()}
    return replace(folded, proto=proto, shapes=shapes, dtypes=dtypes, untraced=untraced), tuple(subgraphs)


def _attributes(node: onnx.NodeProto) -> list[onnx.AttributeProto]:
    return [a for a in node.attribute if a.HasField("g")] if node.op_type in CONTROL else []


def _without_subgraphs(node: onnx.NodeProto, names: Collection[str]) -> onnx.NodeProto:
    """A copy of a node that has no subgraphs in attributes of these names."""
    copy = deepcopy(node)
    for attribute in [attribute for attribute in copy.attribute if attribute.name in names]:
        copy.attribute.remove(attribute)
    return copy


def _batched(folded: FoldedModel, loops: bool) -> set[str]:
    """Tensors whose first axis is the batch."""
    batched = {v.name for v in folded.proto.graph.input if not v.type.tensor_type.shape.dim[:1] or _open_axis(v)}
    larger = {n: (s[0] + 1, *s[1:]) if n in batched and s else s for n, (s, _) in folded.specs.items()}
    try:
        other = fold(folded.proto, larger, folded.batch_size + 1, loops=loops).shapes
    except NetadaptError:
        return set()
    return {name for name, shape in folded.shapes.items() if shape and other.get(name, shape)[:1] != shape[:1]}


def _open_axis(value: onnx.ValueInfoProto) -> bool:
    return not value.type.tensor_type.shape.dim[0].HasField("dim_value")


def _opened(
    node: onnx.NodeProto, attribute: onnx.AttributeProto, around: _Surroundings
) -> tuple[FoldedModel, list[FlatSubgraph]]:
    """One subgraph folded, flattened and renamed. Raises NetadaptError if its shapes cannot be inferred."""
    original = around.model.proto
    model = onnx.ModelProto(ir_version=original.ir_version, opset_import=original.opset_import)
    model.graph.CopyFrom(attribute.g)
    received = _received(node, attribute.g, around.specs)
    formals = {name: spec for name, (spec, _) in received.items()}
    outer = [name for name in captured(node) if name not in formals]
    model.graph.initializer.extend(around.constants[name] for name in outer if name in around.constants)
    runtime = [name for name in outer if name not in around.constants and name in around.specs]
    specs = formals | {name: around.specs[name] for name in runtime}
    sources = {name: source for name, (_, source) in received.items()}
    del model.graph.input[:]
    for name, (shape, dtype) in specs.items():
        axes: list[int | str] = list(shape)
        if shape and sources.get(name, name) in around.batched:
            axes[0] = "batch"
        code = onnx.helper.np_dtype_to_tensor_dtype(dtype)
        model.graph.input.append(onnx.helper.make_tensor_value_info(name, code, axes))
    normalise(model)
    shapes = {name: shape for name, (shape, _) in specs.items()}
    folded = fold(model, shapes, around.model.batch_size, loops=around.loops, inner=True)
    if folded.unrunnable:
        raise NetadaptError(folded.unrunnable)
    folded, inner = flatten(_with_returned_constants(folded, outer), loops=around.loops)
    return _renamed(node, attribute, folded, inner, set(formals), set(outer))


def _with_returned_constants(folded: FoldedModel, outer: Sequence[str]) -> FoldedModel:
    """Have a node put out all that a subgraph returns: an Identity, where folding left a constant."""
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


def _received(node: onnx.NodeProto, subgraph: onnx.GraphProto, outer: Specs) -> dict[str, tuple[Spec, str]]:
    """Shape and type of a subgraph's formal inputs, and the outer tensor that each starts from, '' for others.

    Carried values keep the shapes that they start with; others are counters and slices.
    """
    names = [v.name for v in subgraph.input]
    if node.op_type == "If" or not names:
        return {}
    inputs: list[str] = list(node.input)
    if node.op_type == "Loop":
        received: list[tuple[Spec, str]] = [(((), np.dtype(np.int64)), ""), (((), np.dtype(bool)), "")]
        received += [(_spec(name, outer), name) for name in inputs[2:]]
    else:
        attributes: dict[str, Any] = {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute}
        scanned = int(attributes["num_scan_inputs"])
        states = len(inputs) - scanned
        axes = attributes.get("scan_input_axes", [0] * scanned)
        received = [(_spec(name, outer), name) for name in inputs[:states]]
        for name, axis in zip(inputs[states:], axes, strict=True):
            shape, dtype = _spec(name, outer)
            received.append(((tuple(np.delete(shape, axis).tolist()), dtype), ""))
    if len(received) != len(names):
        raise NetadaptError(f"'{node_name(node)}' gives its body {len(received)} of {len(names)} inputs")
    return dict(zip(names, received, strict=True))


def _spec(name: str, specs: Specs) -> Spec:
    if name not in specs:
        raise NetadaptError(f"the shape of '{name}' is not known")
    return specs[name]


def _renamed(
    node: onnx.NodeProto,
    attribute: onnx.AttributeProto,
    folded: FoldedModel,
    inner: Sequence[FlatSubgraph],
    formals: set[str],
    outer: set[str],
) -> tuple[FoldedModel, list[FlatSubgraph]]:
    """Give everything of a subgraph names that say where it is; tensors from outside keep theirs."""
    prefix = f"{node_name(node)}/{attribute.name}/"
    graph = folded.proto.graph
    own = {name for n in graph.node for name in n.output if name} | {t.name for t in graph.initializer} | formals
    nested = {name for subgraph in inner for name in subgraph.names}  # what those inside receive is no node's output
    own = (own | nested) - outer
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
    owner = next(name for name in node.output if name)
    names = {flat[name]: name for name in own if name not in nested}
    moved = [
        replace(s, name=prefix + s.name, owner=flat[s.owner], names={flat.get(k, k): v for k, v in s.names.items()})
        for s in inner
    ]
    shapes = {flat[name]: shape for name, shape in folded.shapes.items() if name in flat}
    dtypes = {flat[name]: dtype for name, dtype in folded.dtypes.items() if name in flat}
    untraced = {prefix + name: reason for name, reason in folded.untraced.items()}
    renamed = replace(folded, proto=proto, shapes=shapes, dtypes=dtypes, untraced=untraced)
    return renamed, [*moved, FlatSubgraph(prefix[:-1], owner, attribute.name, frame, names)]


def with_branch(proto: onnx.ModelProto, branch: str, untraced: Collection[str]) -> onnx.ModelProto:
    """A copy whose If nodes all take one branch, whatever their conditions say.

    Args:
        proto: The model.
        branch: One of `BRANCHES`, or '': the conditions decide.
        untraced: Names of branches that cannot be traced; nodes with one of them take the other.
    """
    copy = deepcopy(proto)
    for graph in (copy.graph, *all_subgraphs(copy.graph.node)):
        for node in graph.node:
            possible = [name for name in BRANCHES if f"{node_name(node)}/{name}" not in untraced]
            chosen = possible[0] if len(possible) == 1 else branch
            if node.op_type == "If" and chosen:
                name = f"{node_name(node)}/{chosen}/taken"
                graph.initializer.append(numpy_helper.from_array(np.array(chosen == BRANCHES[0]), name))
                node.input[0] = name
    return copy
