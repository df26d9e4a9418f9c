"""Convolutions of any rank and group count.

In the formulas n is the sample, o an output channel, c an input channel, p a position, k an offset inside the kernel;
g(o) are the input channels of the conv group that o is in.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from netadapt_onnx.graph.axis_arrays import Array, on_axis
from netadapt_onnx.surgery.cut import Cut
from netadapt_onnx.surgery.labels import Labels, Unsupported
from netadapt_onnx.surgery.node import Node
from netadapt_onnx.surgery.rules.contraction import bind_channels
from netadapt_onnx.surgery.rules.elementwise import broadcast
from netadapt_onnx.surgery.rules.registry import rule

if TYPE_CHECKING:
    import onnx_graphsurgeon as gs


@dataclass(frozen=True)
class _Form:
    """The sizes of a convolution, and how its weights lie.

    They are w (outputs, inputs / groups, *kernel), or where `transposed` w (inputs, outputs / groups, *kernel): axis 0
    holds all groups one after another, axis 1 the channels of one group. The bias is input number `bias`.
    """

    groups: int
    inputs: int
    outputs: int
    transposed: bool
    bias: int


@rule("Conv")
def conv(node: Node, labels: Labels) -> None:
    """The node consumes channels of x and starts those of y.

    Shapes: x (N, C, *spatial); w (O, C / group, *kernel); y (N, O, *spatial').
    """
    _convolve(node, labels)


@rule("FusedConv", domain="com.microsoft")
def fused_conv(node: Node, labels: Labels) -> None:
    """A Conv; a tensor of the shape of y may be added, whose channels are those of y, and an activation follows."""
    conv(node, labels)
    if node.has(3):
        y = node.outputs[0]
        produced = labels.of(y)
        labels.factors.pop(y, None)
        labels.set(y, broadcast(node, labels, [3], labels.shape(y), produced))


@rule("DeformConv")
def deformable_conv(node: Node, labels: Labels) -> None:
    """A Conv that samples x where its offsets, inputs 2 and 4, say: those stay as they are. Its bias is input 3."""
    for slot in (2, 4):
        if node.has(slot):
            labels.pin_tensor(node.inputs[slot], f"'{node.name}' samples where it says")
    if node.integer("offset_group", 1) > 1:
        raise Unsupported("several groups of offsets")
    _convolve(node, labels, bias=3)


@rule("ConvTranspose")
def conv_transpose(node: Node, labels: Labels) -> None:
    """The node consumes channels of x and starts those of y.

    Shapes: x (N, C, *spatial); w (C, O / group, *kernel); y (N, O, *spatial').
    """
    _convolve(node, labels, transposed=True)


def _convolve(node: Node, labels: Labels, *, transposed: bool = False, bias: int = 2) -> None:
    """Consume the input's labels and start new ones: the node is a layer."""
    x, w = node.inputs[0], node.inputs[1]
    if not labels.is_constant(w):
        raise Unsupported("its weights are computed at run time")
    groups, inputs, sizes = node.integer("group", 1), labels.shape(x)[1], labels.shape(w)
    form = _Form(groups, inputs, groups * sizes[1] if transposed else sizes[0], transposed, bias)
    consumed = labels.channels(x, 1, f"'{node.name}' works along it")
    if form.groups == 1:
        _ungrouped(node, labels, form, consumed)
    elif consumed is not None and _whole_groups_go(node, labels, form):
        _depthwise(node, labels, form, consumed)
    else:
        _grouped(node, labels, form, consumed)


def _put_out(
    node: Node, labels: Labels, form: _Form, channels: Array, axis: int, axis_labels: Array | None = None
) -> None:
    """Label the result (outputs,); along `axis` of w its labels are `channels`, or `axis_labels`."""
    bind_channels(node, labels, form.bias, channels)
    labels.owns(node, channels, 1, axis, axis_labels)
    labels.set(node.outputs[0], [on_axis(channels, 1, len(labels.shape(node.outputs[0])))])


def _ungrouped(node: Node, labels: Labels, form: _Form, consumed: Array | None) -> None:
    """y[n, o, p] = sum over c, k of w[o, c, k] * x[n, c, p + k]: any input channel and any output channel can go."""
    if consumed is not None:
        labels.mask(node, 0)
    channels = labels.fresh(form.outputs) if form.outputs > 1 else None
    first, second = (consumed, channels) if form.transposed else (channels, consumed)
    _bind_weight(node, labels, first, second)
    if channels is not None:
        _put_out(node, labels, form, channels, int(form.transposed))


def _depthwise(node: Node, labels: Labels, form: _Form, consumed: Array) -> None:
    """y[n, o, p] = sum over c in g(o), k of w[o, c, k] * x[n, c, p + k], where g(o) is one channel, or few.

    The inputs and the outputs of a group stay or go as one, and `group` with them.
    """
    rows = consumed.reshape(form.groups, -1)
    by_group = labels.collapse(rows, 1, f"conv groups of '{node.name}'").reshape(-1)
    channels = np.repeat(by_group, form.outputs // form.groups)
    axis_labels = np.repeat(by_group, form.inputs // form.groups) if form.transposed else channels
    _bind_weight(node, labels, axis_labels, None)
    labels.edit(node, _set_group)
    labels.mask(node, 0)
    _put_out(node, labels, form, channels, 0, axis_labels)


def _grouped(node: Node, labels: Labels, form: _Form, consumed: Array | None) -> None:
    """y[n, o, p] = sum over c in g(o), k of w[o, c, k] * x[n, c, p + k]: as many c and o are kept in every group.

    Which ones may differ between groups (`conv_groups.py`) where w can be sliced differently for each: not across the
    groups on axis 0 of a transposed one, nor where something else reads it.
    """
    if consumed is not None:
        labels.mask(node, 0)
    own = form.outputs // form.groups
    inputs = None if consumed is None else consumed.reshape(form.groups, -1)
    outputs = labels.fresh(form.outputs).reshape(form.groups, own) if own > 1 else None
    channels = None if outputs is None else outputs.reshape(-1)
    reason = f"conv groups of '{node.name}'"
    w = node.inputs[1]
    if form.transposed or labels.is_view(w) or len(labels.readers(w)) > 1:
        inputs, outputs = (None if table is None else _alike(labels, table, reason) for table in (inputs, outputs))
    else:
        for table in (inputs, outputs):
            if table is not None:
                labels.balance(table, reason)
    if form.transposed:
        row = None if outputs is None else outputs[0]
        _bind_weight(node, labels, None if inputs is None else inputs.reshape(-1), row)
    elif inputs is None or inputs.shape[1] == 1:  # nothing of a single one can go
        _bind_weight(node, labels, channels, None)
    else:
        _bind_weight(node, labels, channels, inputs[0], blocks=inputs)
    if channels is not None and outputs is not None:
        _put_out(node, labels, form, channels, int(form.transposed), outputs[0] if form.transposed else None)


def _whole_groups_go(node: Node, labels: Labels, form: _Form) -> bool:
    """Whether channels go with their conv group: where groups are narrow and some can go, or so it was originally.

    Narrow are groups with fewer channels than there are groups (depthwise, ResNeXt).
    """
    wide = form.groups < form.inputs // form.groups and node.name not in labels.conv_group_metadata.whole_groups
    if wide or node.name in labels.even:
        labels.even_groups.append(node.name)
        return False
    if form.inputs > form.groups:
        labels.whole_groups.append(node.name)
    return True


def _bind_weight(
    node: Node, labels: Labels, first: Array | None, second: Array | None, blocks: Array | None = None
) -> None:
    """Bind w to labels along its axes 0 and 1; `blocks` (groups, n) differ along axis 1 by the groups of axis 0."""
    rank = len(labels.shape(node.inputs[1]))
    factors = [on_axis(part, axis, rank) for axis, part in enumerate((first, second)) if part is not None]
    labels.bind(node, 1, factors, blocks)


def _alike(labels: Labels, table: Array, reason: str) -> Array:
    """Tie the same index of all rows of (groups, n); returns the first row for all."""
    return np.broadcast_to(labels.collapse(table, 0, reason), table.shape)


def _set_group(cut: Cut, node: gs.Node) -> None:
    name = node.inputs[0].name
    per_group = cut.original_shape(name)[1] // node.attrs["group"]
    node.attrs["group"] = cut.shape(name)[1] // per_group
