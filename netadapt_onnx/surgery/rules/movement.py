"""Operators that move data without changing it: the labels move alike."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate, pairwise
from typing import TYPE_CHECKING

import numpy as np

from netadapt_onnx.graph.axis_arrays import Array, UnmatchedShapes, on_axis, regroup
from netadapt_onnx.graph.shapes import Shape
from netadapt_onnx.surgery.cut import Cut
from netadapt_onnx.surgery.labels import Labels, Unsupported
from netadapt_onnx.surgery.node import Node, align, aligned_shape, labelled
from netadapt_onnx.surgery.rules.elementwise import BROADCASTING, UNARY
from netadapt_onnx.surgery.rules.node_edits import integers, resize_dims, set_gather, set_integers
from netadapt_onnx.surgery.rules.reduction import pass_on, unresized
from netadapt_onnx.surgery.rules.registry import rule

if TYPE_CHECKING:
    import onnx_graphsurgeon as gs


@rule("Shape", "Size")
def sizes(node: Node, labels: Labels) -> None:
    """Sizes are numbers, not channels. Those that count channels follow a cut when they are computed.

    Such nodes are there where sizes stay free; where an axis was cut, `resize_dims` overrules what uses them.
    """
    labels.disregard(node.inputs[0])


@rule("Transpose")
def transpose(node: Node, labels: Labels) -> None:
    """Permute the axes; the default reverses them."""
    if labels.is_view(node.outputs[0]):
        return
    rank = len(labels.shape(node.inputs[0]))
    order = node.attributes.get("perm", list(range(rank))[::-1])
    labels.set(node.outputs[0], [f.transpose(order) for f in labels.of(node.inputs[0])])


@rule("Reshape", "Flatten", "Squeeze", "Unsqueeze")
def reshape(node: Node, labels: Labels) -> None:
    """The order of elements stays: reshape the label array itself, spelled out only where it holds labels."""
    x, y = node.inputs[0], node.outputs[0]
    before, after = labels.shape(x), labels.shape(y)
    try:
        factors = [regroup(f, before, after) for f in labels.of(x)]
    except UnmatchedShapes as error:
        raise Unsupported(str(error)) from error
    labels.set(y, factors)
    if node.op == "Reshape" and factors:
        labels.edit(node, lambda cut, edited: resize_dims(cut, edited, 1, y))


@rule("Concat")
def concat(node: Node, labels: Labels) -> None:
    """Labels of the operands one after another; on the other axes the operands are tied."""
    y = node.outputs[0]
    rank = len(labels.shape(y))
    axis = node.integer("axis", 1) % rank
    sizes = [labels.shape(name)[axis] for name in node.inputs]
    along, across = _along_and_across(node, labels, axis)
    if any(factor is None for factor in along):
        along, across = _cut_across(node, labels, axis, along, across)
    across = _tie_operands(node, labels, axis, across)
    for slot, name in enumerate(node.inputs):
        if labels.is_constant(name):
            # Values that nothing produces may go with whatever they are combined with further on.
            own = on_axis(labels.fresh(sizes[slot]), axis, rank) if sizes[slot] > 1 else None
            along[slot] = own
            labels.bind(node, slot, [*across, *([] if own is None else [own])])
    if all(factor is None for factor in along):
        labels.set(y, across)
        return
    factors = [np.zeros([1] * rank, np.int64) if factor is None else factor for factor in along]
    lengths = [max(factor.shape[k] for factor in factors) for k in range(rank)]
    shapes = [[*lengths[:axis], size, *lengths[axis + 1 :]] for size in sizes]
    spelled = [np.broadcast_to(factor, shape) for factor, shape in zip(factors, shapes, strict=True)]
    labels.set(y, [*across, np.concatenate(spelled, axis)])


def _along_and_across(node: Node, labels: Labels, axis: int) -> tuple[list[Array | None], list[Array]]:
    """The labels of each operand along the axis of concatenation, if any, and those of all along the others."""
    along: list[Array | None] = []
    across: list[Array] = []
    for name in node.inputs:
        own: Array | None = None
        for factor in labels.of(name):
            if factor.shape[axis] == 1:
                across = labels.join(across, factor, f"'{node.name}'")
            elif own is None:
                own = factor
            else:
                labels.tie(own, factor, f"'{node.name}'")
        along.append(own)
    return along, across


def _cut_across(
    node: Node, labels: Labels, axis: int, along: Sequence[Array | None], across: list[Array]
) -> tuple[list[Array | None], list[Array]]:
    """What a cache holds is cut as the new position is that goes behind it: not along the axis of concatenation."""
    kept: list[Array | None] = []
    for factor in along:
        others = [k for k, n in enumerate(() if factor is None else factor.shape) if k != axis and n > 1]
        if factor is not None and any(labelled(across, k) for k in others):
            across = labels.join(across, labels.collapse(factor, axis, f"'{node.name}'"), f"'{node.name}'")
            factor = None
        kept.append(factor)
    return kept, across


def _tie_operands(node: Node, labels: Labels, axis: int, across: list[Array]) -> list[Array]:
    """Along the other axes nothing can go that a runtime operand cannot lose."""
    for name in node.inputs:
        for other, length in enumerate(labels.shape(name)):
            if other == axis or length <= 1 or labels.is_constant(name) or labelled(labels.of(name), other):
                continue
            reason = f"'{node.name}' concatenates it with '{name}', which cannot be cut"
            across = [labels.collapse(f, other, reason) for f in across]
    return across


@rule("Split")
def split(node: Node, labels: Labels) -> None:
    """Each output carries its part of the labels; sizes are written out where they change."""
    x = node.inputs[0]
    axis = node.integer("axis", 0) % len(labels.shape(x))
    if labelled(labels.of(x), axis):
        labels.edit(node, lambda cut, edited: _set_split(cut, edited, node.outputs, axis))
    ends = accumulate((labels.shape(y)[axis] for y in node.outputs), initial=0)
    for y, (start, end) in zip(node.outputs, pairwise(ends), strict=True):
        parts = [f.take(range(start, end), axis) if f.shape[axis] > 1 else f for f in labels.of(x)]
        labels.set(y, parts, f"single channel taken by '{node.name}'")


def _set_split(cut: Cut, node: gs.Node, outputs: tuple[str, ...], axis: int) -> None:
    sizes = [cut.shape(y)[axis] for y in outputs]
    if sizes == [cut.original_shape(y)[axis] for y in outputs]:
        return
    if "split" in node.attrs or cut.opset < 13:
        node.attrs["split"] = sizes
    else:
        node.attrs.pop("num_outputs", None)
        set_integers(node, 1, sizes)


@rule("Slice")
def slice_(node: Node, labels: Labels) -> None:
    """Take the slice of the labels. A step other than 1 on labels becomes a Gather."""
    x, y = node.inputs[0], node.outputs[0]
    shape = labels.shape(x)
    if _computed_elsewhere(node, labels, shape):
        labels.set(y, labels.of(x))
        return
    starts, ends = labels.integers(node, 1, "starts"), labels.integers(node, 2, "ends")
    if starts is None or ends is None:
        raise Unsupported("no starts and ends")
    axes = labels.integers(node, 3, "axes") or list(range(len(starts)))
    steps = labels.integers(node, 4) or [1] * len(starts)
    factors = list(labels.of(x))
    axes = [a % len(shape) for a in axes]
    touched = [k for k, a in enumerate(axes) if labelled(factors, a)]
    for k in touched:
        indices = np.arange(*slice(starts[k], _end(ends[k], steps[k]), steps[k]).indices(shape[axes[k]]))
        factors = [f.take(indices, axes[k]) if f.shape[axes[k]] > 1 else f for f in factors]
    if touched:
        if any(steps[k] != 1 for k in touched):
            if len(axes) > 1:
                raise Unsupported("a step on channels together with other axes")
            labels.edit(node, lambda cut, edited: _slice_to_gather(cut, edited, x, axes[0], indices))
        else:
            labels.edit(node, lambda cut, edited: _set_slice(cut, edited, x, axes, touched))
    labels.set(y, factors, f"single channel taken by '{node.name}'")


def _computed_elsewhere(node: Node, labels: Labels, shape: Shape) -> bool:
    """Whether a Slice's bounds are computed at run time, but on axes without channels."""
    if not any(node.has(slot) and not labels.is_constant(node.inputs[slot]) for slot in (1, 2)):
        return False
    axes = labels.integers(node, 3, "axes") or list(range(len(shape)))
    return not any(labelled(labels.of(node.inputs[0]), axis % len(shape)) for axis in axes)


def _end(end: int, step: int) -> int | None:
    """With a negative step, an end far below zero means 'through the first element'."""
    return None if step < 0 and end < -(2**30) else end


def _set_slice(cut: Cut, node: gs.Node, x: str, axes: list[int], touched: list[int]) -> None:
    starts, ends = integers(node, 1, "starts"), integers(node, 2, "ends")
    for k in touched:
        counts = cut.counts(x, axes[k])
        start, end, _ = slice(starts[k], ends[k]).indices(len(counts))
        starts[k], ends[k] = int(counts[:start].sum()), int(counts[: max(start, end)].sum())
    set_integers(node, 1, starts, "starts")
    set_integers(node, 2, ends, "ends")


def _slice_to_gather(cut: Cut, node: gs.Node, x: str, axis: int, indices: Array) -> None:
    node.op = "Gather"
    node.attrs = {"axis": axis}
    node.inputs = node.inputs[:2]
    set_integers(node, 1, indices)
    set_gather(cut, node, x, axis, indices)


@rule("Pad")
def pad(node: Node, labels: Labels) -> None:
    """Padded channels get fresh labels: they go with whatever they are added to (ResNet's option-A shortcuts)."""
    x, y = node.inputs[0], node.outputs[0]
    rank = len(labels.shape(x))
    if node.has(1) and not labels.is_constant(node.inputs[1]):  # computed at run time
        labels.set(y, pass_on(node, labels, unresized(node, labels), "pads"))
        return
    amounts = labels.integers(node, 1, "pads") or labels.integers(node, 1, "paddings")
    if amounts is None:
        raise Unsupported("no pads")
    axes = labels.integers(node, 3) or list(range(rank))
    before, after = np.zeros(rank, int), np.zeros(rank, int)
    before[axes], after[axes] = np.split(np.array(amounts), 2)
    factors = list(labels.of(x))
    for axis in np.flatnonzero(before | after).tolist():
        if not labelled(factors, axis):
            continue
        if node.text("mode", "constant") != "constant" or min(before[axis], after[axis]) < 0:
            raise Unsupported("pads channels other than by a constant")
        channels = labels.channels(x, axis, f"'{node.name}' pads it")
        if channels is None:
            continue
        channels = np.concatenate([labels.fresh(before[axis]), channels, labels.fresh(after[axis])])
        factors = [f for f in factors if f.shape[axis] == 1] + [on_axis(channels, axis, rank)]
        labels.edit(node, lambda cut, edited, axis=axis: _set_pads(cut, edited, y, axes, axis, before, after))  # type: ignore[misc]
    labels.set(y, factors)


def _set_pads(cut: Cut, node: gs.Node, y: str, axes: list[int], axis: int, before: Array, after: Array) -> None:
    counts = cut.counts(y, axis)
    attribute = "paddings" if "paddings" in node.attrs else "pads"
    amounts = integers(node, 1, attribute)
    k = axes.index(axis)
    amounts[k] = int(counts[: before[axis]].sum())
    amounts[k + len(axes)] = int(counts[len(counts) - after[axis] :].sum())
    set_integers(node, 1, amounts, attribute)


@rule("Expand")
def expand(node: Node, labels: Labels) -> None:
    """Labels pass on the axes that are not stretched; the target is rewritten where it names a cut axis."""
    x, y = node.inputs[0], node.outputs[0]
    rank = len(labels.shape(y))
    # A constant stretched over the batch (a class token) can be cut like what it is combined with further on.
    constant = labels.is_constant(x)
    factors = [align(f, rank) for f in (labels.introduce(node, 0) if constant else labels.of(x))]
    if labels.kind(x) == "f" if constant else combined(y, labels):
        factors += stretched(labels, aligned_shape(labels.shape(x), rank), labels.shape(y))
    labels.set(y, factors)
    if factors:
        labels.edit(node, lambda cut, edited: resize_dims(cut, edited, 1, y))


def combined(name: str, labels: Labels) -> bool:
    """Whether all that reads a tensor combines it with others, position by position, perhaps after unary operators.

    Then an axis that a node stretched from length 1 has no channels of its own and follows the others (the norm that
    `torch.nn.functional.normalize` divides by). What is reshaped (heads that several queries share) is repeated.
    """
    waiting, seen = [name], set[str]()
    while waiting:
        readers = labels.readers(waiting.pop())
        if not readers or any(reader.domain or reader.op_type not in (*BROADCASTING, *UNARY) for reader in readers):
            return False
        unary = [reader.output[0] for reader in readers if reader.op_type in UNARY]
        waiting += [result for result in unary if result not in seen]
        seen.update(unary)
    return True


def stretched(labels: Labels, before: Shape, after: Shape) -> list[Array]:
    """Fresh labels on the axes of length 1 that get longer."""
    axes = [k for k, n in enumerate(before) if n == 1 < after[k]]
    return [on_axis(labels.fresh(after[k]), k, len(after)) for k in axes]


@rule("ConstantOfShape")
def filled(node: Node, labels: Labels) -> None:
    """A fill over the batch (an initial state, say) can be cut on any axis: its dimensions are rewritten."""
    y = node.outputs[0]
    shape = labels.shape(y)
    if labels.kind(y) == "f":
        labels.set(y, labels.on_every_axis(shape))
        labels.edit(node, lambda cut, edited: resize_dims(cut, edited, 0, y))


@rule("Tile")
def tile(node: Node, labels: Labels) -> None:
    """Labels repeat along the axes that are tiled; one that is stretched from length 1 follows what it meets."""
    x, y = node.inputs[0], node.outputs[0]
    before, after = labels.shape(x), labels.shape(y)
    repeats = [n // m for m, n in zip(before, after, strict=True)]
    inputs = labels.introduce(node, 0) if labels.is_constant(x) else labels.of(x)
    factors = [np.tile(f, [r if n > 1 else 1 for n, r in zip(f.shape, repeats, strict=True)]) for f in inputs]
    if node.opset >= 6 and labels.is_constant(node.inputs[1]) and combined(y, labels):
        factors += stretched(labels, before, after)
        labels.edit(node, lambda cut, edited: _set_repeats(cut, edited, x, y))
    labels.set(y, factors)


def _set_repeats(cut: Cut, node: gs.Node, x: str, y: str) -> None:
    repeats = integers(node, 1)
    for axis, (before, after) in enumerate(zip(cut.original_shape(y), cut.shape(y), strict=True)):
        if before != after and cut.original_shape(x)[axis] == 1:
            repeats[axis] = after
    if repeats != integers(node, 1):
        set_integers(node, 1, repeats)


@rule("DepthToSpace")
def depth_to_space(node: Node, labels: Labels) -> None:
    """The block x block channels that make one output channel go together."""
    channels = labels.channels(node.inputs[0], 1, f"'{node.name}' moves it")
    if channels is None:
        return
    area = node.integer("blocksize", 1) ** 2
    axis, blocks = (0, (area, -1)) if node.text("mode", "DCR") == "DCR" else (1, (-1, area))
    channels = labels.collapse(channels.reshape(blocks), axis, f"blocks of '{node.name}'").reshape(-1)
    labels.set(node.outputs[0], [on_axis(channels, 1, 4)])


@rule("SpaceToDepth")
def space_to_depth(node: Node, labels: Labels) -> None:
    """Every input channel appears block x block times in the output."""
    channels = labels.channels(node.inputs[0], 1, f"'{node.name}' moves it")
    if channels is not None:
        labels.set(node.outputs[0], [on_axis(np.tile(channels, node.integer("blocksize", 1) ** 2), 1, 4)])
