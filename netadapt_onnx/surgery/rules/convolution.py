"""Convolutions of any rank and group count."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from netadapt_onnx.surgery.factors import on_axis
from netadapt_onnx.surgery.labels import Labels, Unsupported
from netadapt_onnx.surgery.node import Node
from netadapt_onnx.surgery.rules.contraction import bind_channels
from netadapt_onnx.surgery.rules.elementwise import broadcast
from netadapt_onnx.surgery.rules.registry import rule
from netadapt_onnx.surgery.union_find import Array

if TYPE_CHECKING:
    import onnx_graphsurgeon as gs

    from netadapt_onnx.surgery.resize import Cut


@rule("Conv")
def conv(node: Node, labels: Labels) -> None:
    """Shapes: x (N, C, *spatial); w (O, C / group, *kernel); y (N, O, *spatial')."""
    outputs = labels.shape(node.inputs[1])[0]
    _convolve(node, labels, outputs, produced_axis=0, consumed_axis=1)


@rule("FusedConv", domain="com.microsoft")
def fused_conv(node: Node, labels: Labels) -> None:
    """Conv, an optional tensor of the result's shape added, an activation."""
    conv(node, labels)
    if node.has(3):
        y = node.outputs[0]
        produced = labels.of(y)
        labels.factors.pop(y, None)
        labels.set(y, broadcast(node, labels, [3], labels.shape(y), produced))


@rule("DeformConv")
def deformable_conv(node: Node, labels: Labels) -> None:
    """Conv that samples x where offsets, inputs 2 and 4, say: those stay as they are. Its bias is input 3."""
    for slot in (2, 4):
        for factor in labels.of(node.inputs[slot]) if node.has(slot) else ():
            labels.pin(factor, f"'{node.name}' samples where it says")
    if node.integer("offset_group", 1) > 1:
        raise Unsupported("several groups of offsets")
    _convolve(node, labels, labels.shape(node.inputs[1])[0], produced_axis=0, consumed_axis=1, bias=3)


@rule("ConvTranspose")
def conv_transpose(node: Node, labels: Labels) -> None:
    """Shapes: x (N, C, *spatial); w (C, O / group, *kernel); y (N, O, *spatial')."""
    outputs = labels.shape(node.inputs[1])[1] * node.integer("group", 1)
    _convolve(node, labels, outputs, produced_axis=1, consumed_axis=0)


def _convolve(node: Node, labels: Labels, outputs: int, produced_axis: int, consumed_axis: int, bias: int = 2) -> None:
    """Consume the input's labels and start new ones; a grouped convolution keeps its groups alike.

    Groups with fewer channels than there are groups (depthwise, ResNeXt) live and die whole, and `group` with them;
    otherwise as many channels are kept in every group.
    """
    x, w = node.inputs[0], node.inputs[1]
    if not labels.is_constant(w):
        raise Unsupported("its weights are computed at run time")
    inputs = labels.shape(x)[1]
    groups = node.integer("group", 1)
    line = labels.channels(x, 1, f"'{node.name}' works along it")
    grouped_axis = 0  # of w: the axis that holds all groups one after another (O of Conv, C of ConvTranspose)
    produced: Array | None
    own_axis, own_line = produced_axis, None  # where the weights produce the output channels
    if groups > 1 and line is not None and _whole_groups_go(node, labels, groups, inputs):
        whole = _tie_columns(labels, line.reshape(groups, -1), f"conv groups of '{node.name}'")
        produced = np.repeat(whole, outputs // groups)
        consumed = np.repeat(whole, inputs // groups)
        own_axis, own_line = grouped_axis, consumed if consumed_axis == grouped_axis else produced
        _bind_weight(node, labels, grouped_axis, own_line, None, None)
        labels.edit(node, _set_group)
        labels.mask(node, 0)
    else:
        per_group = None
        if line is not None:
            per_group = line.reshape(groups, -1)
            labels.mask(node, 0)
        own = outputs // groups
        table = labels.fresh(outputs).reshape(groups, own) if own > 1 else None
        produced = None if table is None else table.reshape(-1)
        reason = f"conv groups of '{node.name}'"
        if consumed_axis == grouped_axis or labels.is_view(w) or len(labels.readers(w)) > 1:
            per_group, table = (None if t is None else _same_in_all(labels, t, reason) for t in (per_group, table))
        else:
            for each in (per_group, table):
                if each is not None:
                    labels.balance(each, reason)
        if consumed_axis == grouped_axis:
            own_line = None if table is None else table[0]
            everywhere = None if per_group is None else per_group.reshape(-1)
            _bind_weight(node, labels, consumed_axis, everywhere, produced_axis, own_line)
        else:
            _bind_weight(node, labels, produced_axis, produced, consumed_axis, per_group)
    if produced is None:
        return
    bind_channels(node, labels, bias, produced)
    labels.owns(node, produced, 1, own_axis, own_line)
    rank = len(labels.shape(node.outputs[0]))
    labels.set(node.outputs[0], [on_axis(produced, 1, rank)])


def _whole_groups_go(node: Node, labels: Labels, groups: int, inputs: int) -> bool:
    """Whether channels go with their conv group: where groups are narrow and some can go, or so it was originally."""
    wide = groups < inputs // groups and node.name not in labels.inherited.whole
    if wide or node.name in labels.even:
        labels.even_groups.append(node.name)
        return False
    if inputs > groups:
        labels.whole_groups.append(node.name)
    return True


def _bind_weight(
    node: Node, labels: Labels, axis: int, line: Array | None, other: int | None, other_line: Array | None
) -> None:
    """Bind labels along two axes of w; a table (groups, n) along the other one differs by the groups of the first."""
    rank = len(labels.shape(node.inputs[1]))
    blocks = None
    if other_line is not None and other_line.ndim > 1:
        blocks = other_line if min(other_line.shape) > 1 else None
        other_line = other_line[0] if other_line.shape[1] > 1 else None  # nothing of a single one can go
    pairs = ((axis, line), (other, other_line))
    factors = [on_axis(part, k, rank) for k, part in pairs if part is not None and k is not None]
    labels.bind(node, 1, factors, blocks)


def _tie_columns(labels: Labels, table: Array, reason: str) -> Array:
    """Tie each row of (groups, n) into one label; returns (groups,)."""
    return labels.collapse(table, 1, reason).reshape(-1)


def _same_in_all(labels: Labels, table: Array, reason: str) -> Array:
    """Tie the same index of all rows of (groups, n); returns the first row for all."""
    return np.broadcast_to(labels.collapse(table, 0, reason), table.shape)


def _set_group(cut: Cut, node: gs.Node) -> None:
    name = node.inputs[0].name
    per_group = cut.original_shape(name)[1] // node.attrs["group"]
    node.attrs["group"] = cut.shape(name)[1] // per_group
