"""Cut a traced model, or widen it: slice every constant at its kept labels, rewrite every number that counted channels.

A channel that is added stands beside the one it is modelled on, in every tensor: after it, or, where the channel is a
run of equal labels (a head's dimensions, a flattened map's pixels), after the whole run. Its weights are drawn with the
standard deviation of their tensor; per-channel vectors (biases, BatchNorm) are copied.
"""

from __future__ import annotations

import zlib
from collections import Counter
from collections.abc import Container
from hashlib import sha256
from itertools import count

import numpy as np
import onnx
import onnx_graphsurgeon as gs

from netadapt_onnx.common.grouping import grouped
from netadapt_onnx.graph.axis_arrays import Array, on_axis
from netadapt_onnx.surgery.conv_group_metadata import ConvGroupMetadata
from netadapt_onnx.surgery.cut import Cut, KeptIndices, arrange
from netadapt_onnx.surgery.editing import Editing
from netadapt_onnx.surgery.records import Use
from netadapt_onnx.surgery.trace import Trace
from netadapt_onnx.surgery.unflatten_subgraphs import unflatten


def resize(trace: Trace, keep: KeptIndices) -> onnx.ModelProto:
    """Build the traced model with the channels of each group that `keep` names; other groups stay as they are.

    Args:
        trace: The original model.
        keep: By group the ascending indices of the channels that stay; one that is repeated gets new channels beside
            it.

    Returns:
        A new model; the original's weights are not changed.

    Raises:
        NetadaptError: For unknown or pinned groups, indices out of range, broken steps and too few channels.
    """
    cut = trace.cut(keep)
    model = resize_flat(trace, cut)
    unflatten(model, trace.subgraphs, cut.shapes)
    return model


def resize_flat(trace: Trace, cut: Cut) -> onnx.ModelProto:
    """Build the same model with its subgraphs still laid out flat."""
    editing = Editing(trace.flat.proto, trace.flat.file)
    nodes = list(editing.graph.nodes)
    _slice_constants(editing, trace, cut)
    added = [new for index, edit in trace.labels.edits for new in edit(cut, nodes[index]) or ()]
    if added:
        editing.graph.nodes.extend(added)
        editing.graph.toposort()
    model = editing.exported()
    _write_metadata(model, trace, cut)
    for value in (*model.graph.input, *model.graph.output):
        if value.name in trace.labels.choices.resize_io:
            for dim, n in zip(value.type.tensor_type.shape.dim, cut.shape(value.name), strict=False):
                if dim.HasField("dim_value"):
                    dim.dim_value = n
    return model


def _write_metadata(model: onnx.ModelProto, trace: Trace, cut: Cut) -> None:
    """Have a cut model say which channels belong together for the sake of equal conv groups, if not by their index."""
    labels = trace.labels
    if cut.grows or (trace.runs is trace.roots and not labels.conv_group_metadata.ties):
        return
    tables = [trace.roots[table].reshape(-1) for table, _ in labels.balances]
    concerned = np.unique(np.concatenate([*tables, np.zeros(1, np.int64)]))[1:]
    ties: dict[str, list[int]] = {}
    for layer in labels.layers:
        channels = trace.roots[layer.channels]
        if np.isin(channels, concerned).any():
            ties[layer.name] = channels[cut.copies[channels] > 0].tolist()
    ConvGroupMetadata(ties, frozenset(labels.even_groups), frozenset(labels.whole_groups)).write(model)


def _slice_constants(editing: Editing, trace: Trace, cut: Cut) -> None:
    """Cut every labelled constant. Users that need different slices of one constant get copies of their own."""
    graph = editing.graph
    uses = grouped((use.constant, use) for use in trace.labels.uses)
    tensors = graph.tensors()
    outputs = {tensor.name for tensor in graph.outputs}
    reads = Counter(id(tensor) for node in graph.nodes for tensor in node.inputs)
    for name, users in uses.items():
        constant = tensors[name]
        original = editing.values(constant)
        slices = [_sliced(trace, cut, use, original) for use in users]
        shared = max(len(constant.outputs), reads[id(constant)]) > len(users) or name in outputs
        in_full = any(values is None for values in slices)
        variants: dict[tuple[object, ...], gs.Constant] = {}
        for use, values in zip(users, slices, strict=True):
            if values is None:
                continue
            key = (values.shape, sha256(values.tobytes()).digest()) if len(users) > 1 else ()
            if key not in variants:
                first = not variants and not shared and not in_full
                new_name = name if first else _free_name(name, tensors, len(variants))
                variants[key] = tensors[new_name] = editing.constant(new_name, values)
            graph.nodes[use.node].inputs[use.slot] = variants[key]


def _sliced(trace: Trace, cut: Cut, use: Use, values: np.ndarray) -> np.ndarray | None:
    """A constant's values after the cut, as one node uses it; None if they are all there."""
    if use.blocks is not None:
        return _sliced_by_blocks(trace, cut, use, use.blocks, values)
    changed = False
    new = np.zeros((1,) * values.ndim, bool)
    for factor in use.factors:
        axis, axis_labels = trace.axis_labels_of(factor)
        counts = cut.copies[axis_labels]
        if (counts == 1).all():
            continue
        changed = True
        positions, copy = arrange(counts, [trace.runs_of(factor)])
        values = values.take(positions, axis)
        new = (new if new.shape[axis] == 1 else new.take(positions, axis)) | (on_axis(copy, axis, values.ndim) > 0)
    if not changed:
        return None
    matrix = sum(n > 1 for n in values.shape) > 1 and values.dtype.kind == "f"
    return _drawn(values, np.broadcast_to(new, values.shape), use.constant) if matrix and new.any() else values


def _sliced_by_blocks(trace: Trace, cut: Cut, use: Use, blocks: Array, values: np.ndarray) -> np.ndarray | None:
    """The same where each run of axis 0 keeps other positions of axis 1, but as many."""
    rows, row_copy = np.arange(len(values)), np.zeros(len(values), np.int64)
    for factor in use.factors:
        axis, axis_labels = trace.axis_labels_of(factor)
        if axis == 0:
            rows, row_copy = arrange(cut.copies[axis_labels], [trace.runs_of(factor)])
    each = [arrange(cut.copies[trace.roots[block]], [trace.runs[block]]) for block in blocks]
    columns, column_copy = (np.stack(parts) for parts in zip(*each, strict=True))
    if len(rows) == len(values) and columns.shape == blocks.shape and not row_copy.any():
        return None
    block = rows * len(blocks) // len(values)
    values = values[rows[:, None], columns[block]]
    new = (row_copy[:, None] > 0) | (column_copy[block] > 0)
    new = new.reshape(*new.shape, *[1] * (values.ndim - 2))
    return _drawn(values, np.broadcast_to(new, values.shape), use.constant) if new.any() else values


def _drawn(values: np.ndarray, new: np.ndarray, name: str) -> np.ndarray:
    """The same values with those marked `new` drawn at random, from a seed that is the tensor's name."""
    rng = np.random.default_rng(zlib.crc32(name.encode()))
    spread = float(values.astype(np.float64).std())
    drawn: np.ndarray = np.where(new, rng.normal(0.0, spread, values.shape), values).astype(values.dtype)
    return drawn


def _free_name(name: str, used: Container[str], start: int) -> str:
    """The first `NAME_i` with i from `start` (at least 1) on that is not used."""
    return next(f"{name}_{i}" for i in count(max(start, 1)) if f"{name}_{i}" not in used)
