"""The masked reference: the original model, computing on every kept channel what the pruned one should compute.

Removed channels are zeroed in front of each contraction (the same as zeroing the consumers' weights). A reduction over
channels, a LayerNorm say, sees fewer channels after a cut: there the reference gathers the kept ones, applies the
pruned node and scatters the result back.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import reduce

import numpy as np
import onnx
import onnx_graphsurgeon as gs

from netadapt_onnx.graph.axis_arrays import on_axis
from netadapt_onnx.surgery.cut import Cut
from netadapt_onnx.surgery.editing import Editing
from netadapt_onnx.surgery.records import Use
from netadapt_onnx.surgery.resize import resize_flat
from netadapt_onnx.surgery.rules.quantised import BY_DIRECTION, ZERO_POINTS
from netadapt_onnx.surgery.trace import Trace
from netadapt_onnx.surgery.unflatten_subgraphs import unflatten

WHERE_OPSET = 9


def masked_reference(trace: Trace, cut: Cut, pruned: onnx.ModelProto) -> onnx.ModelProto:
    """Build the reference of `pruned`, the model that `cut` made of `trace`; tensors keep their names."""
    editing = Editing(trace.flat.proto, trace.flat.file)
    small = Editing(resize_flat(trace, cut) if trace.subgraphs else pruned)
    graph = editing.graph
    original = list(graph.nodes)
    uses = {(use.node, use.slot): use for use in trace.labels.uses}
    for index, slot in trace.labels.masked:
        _mask(editing, original[index], slot, trace, cut, uses.get((index, slot)))
    after = {node.outputs[0].name: node for node in small.graph.nodes if node.outputs}
    for index in dict.fromkeys(trace.labels.gathered):
        _gather(editing, original[index], small, after[original[index].outputs[0].name], trace, cut)
    graph.toposort()
    result = editing.exported()
    unflatten(result, trace.subgraphs)
    return result


def _mask(editing: Editing, node: gs.Node, slot: int, trace: Trace, cut: Cut, use: Use | None) -> None:
    """Zero removed channels by Where(mask, x, 0): a product would let NaN and infinity through.

    A constant is masked for this node alone.
    """
    graph, tensor = editing.graph, node.inputs[slot]
    if use is None:
        masks = cut.shortened_axes(tensor.name)
    else:
        along = map(trace.axis_labels_of, use.factors)
        masks = [(axis, kept) for axis, roots in along if not (kept := cut.copies[roots] > 0).all()]
    if not masks:
        return
    rank = len(trace.flat.shapes[tensor.name])
    mask = reduce(np.logical_and, (on_axis(kept, axis, rank) for axis, kept in masks))
    dtype = trace.flat.dtypes[tensor.name]
    name = f"{tensor.name}/masked/{next(out.name for out in node.outputs if out.name)}/{slot}"
    zero_point = _zero_point(node, slot)
    if isinstance(tensor, gs.Constant):
        zeros = np.zeros((), np.int8) if zero_point is None else editing.values(zero_point)
        if zero_point is not None and node.op in BY_DIRECTION:
            zeros = zeros.reshape(len(zeros), 1, -1)
        masked = np.where(mask, editing.values(tensor), zeros)
        node.inputs[slot] = editing.constant(name, masked.astype(dtype))
        return
    out = gs.Variable(name)
    if cut.opset >= WHERE_OPSET:
        zero = editing.constant(f"{name}/zero", np.zeros((), dtype)) if zero_point is None else zero_point
        inputs = [gs.Constant(f"{name}/mask", mask), tensor, zero]
        graph.nodes.append(gs.Node("Where", name=name, inputs=inputs, outputs=[out]))
    else:
        inputs = [tensor, editing.constant(f"{name}/mask", mask.astype(dtype))]
        graph.nodes.append(gs.Node("Mul", name=name, inputs=inputs, outputs=[out]))
    node.inputs[slot] = out


def _zero_point(node: gs.Node, slot: int) -> gs.Tensor | None:
    """The zero point of a quantised operand, if it has one: the value of a removed channel."""
    index = ZERO_POINTS.get(node.op, {}).get(slot)
    present = index is not None and index < len(node.inputs) and node.inputs[index].name
    return node.inputs[index] if present else None


def _gather(editing: Editing, node: gs.Node, small: Editing, pruned: gs.Node, trace: Trace, cut: Cut) -> None:
    """Apply the pruned node to the kept channels and put its results back at their places."""
    graph = editing.graph
    base = node.outputs[0].name  # names of nodes need not differ
    for slot, tensor in enumerate(node.inputs):
        if isinstance(tensor, gs.Constant):
            values = small.values(pruned.inputs[slot])
            node.inputs[slot] = editing.constant(f"{tensor.name}/kept/{base}/{slot}", values)
        elif tensor.name in trace.flat.shapes:
            steps = [(axis, np.flatnonzero(kept)) for axis, kept in cut.shortened_axes(tensor.name)]
            if steps:
                node.inputs[slot] = gs.Variable(f"{tensor.name}/kept/{base}/{slot}")
                _add_gathers(graph, tensor, steps, node.inputs[slot])
    node.attrs = dict(pruned.attrs)
    for slot, tensor in enumerate(list(node.outputs)):
        # Removed positions get a copy of a kept one: nothing reads them unmasked.
        steps = [(axis, np.maximum(np.cumsum(kept) - 1, 0)) for axis, kept in cut.shortened_axes(tensor.name)]
        if steps:
            node.outputs[slot] = gs.Variable(f"{tensor.name}/kept/{base}/out{slot}")
            _add_gathers(graph, node.outputs[slot], steps, tensor)


def _add_gathers(
    graph: gs.Graph, source: gs.Variable, steps: Sequence[tuple[int, np.ndarray]], result: gs.Variable
) -> None:
    """Add nodes that take the indices along each axis, one after the other, from `source` to `result`."""
    for i, (axis, indices) in enumerate(steps, 1):
        target = result if i == len(steps) else gs.Variable(f"{result.name}/axis{axis}")
        inputs = [source, gs.Constant(f"{target.name}/indices{axis}", indices.astype(np.int64))]
        name = f"{target.name}/gather{axis}"
        graph.nodes.append(gs.Node("Gather", name=name, attrs={"axis": axis}, inputs=inputs, outputs=[target]))
        source = target
