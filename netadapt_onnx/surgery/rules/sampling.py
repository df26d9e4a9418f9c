"""Operators that sample positions in space or time: labels on the axes that they leave alone pass."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import chain

import numpy as np

from netadapt_onnx.graph.axis_arrays import Array, on_axis
from netadapt_onnx.surgery.labels import Labels
from netadapt_onnx.surgery.node import Node
from netadapt_onnx.surgery.rules.reduction import pass_on, unresized
from netadapt_onnx.surgery.rules.registry import rule


@rule("RoiAlign", "MaxRoiPool")
def sample_regions(node: Node, labels: Labels) -> None:
    """Channels of x (N, C, ...) pass; a batch is kept whole, and the regions stay as they are."""
    for name in node.inputs[1:]:
        labels.pin_tensor(name, f"'{node.name}' samples where it says")
    labels.set(node.outputs[0], pass_on(node, labels, (1,), "samples"))


@rule("GridSample")
def sample_grid(node: Node, labels: Labels) -> None:
    """x (N, C, *size), grid (N, *size', spatial axes) -> y (N, C, *size'): channels pass, and so does the batch.

    Deformable attention lays its heads on the batch, where those of x, of the grid and of y are the same. Where to
    sample (all other axes of the grid) stays as it is. Of heads x channels one has to be given up (`Choices`).
    """
    x, grid = node.inputs[:2]
    rank = len(labels.shape(node.outputs[0]))
    reason = f"'{node.name}' samples where it says"
    of_grid = [labels.keep_axes(f, (0,), reason).reshape(-1) for f in labels.of(grid)]
    of_grid = [axis_labels for axis_labels in of_grid if axis_labels.size > 1]
    heads_go = labels.choices.attention == "heads" and (bool(of_grid) or labels.is_constant(grid))
    batch: list[Array] = []
    channels: list[Array] = []
    for factor in labels.of(x):
        factor = labels.keep_axes(factor, (0, 1), f"'{node.name}' samples it")
        if min(factor.shape[:2]) > 1:
            factor = labels.collapse(factor, int(heads_go), f"'{node.name}' samples heads with all their channels")
        if factor.shape[0] > 1:
            batch.append(factor.reshape(-1))
        else:
            channels.append(factor)
    merged = _same_batch(node, labels, {0: batch, 1: of_grid})
    labels.set(node.outputs[0], [*channels, *(on_axis(axis_labels, 0, rank) for axis_labels in merged)])


def _same_batch(node: Node, labels: Labels, by_slot: Mapping[int, list[Array]]) -> list[Array]:
    """Tie labels (N,) along the first axis of several inputs; constants among these are sliced along it.

    Nothing can go from the batch if a computed input cannot lose it: `by_slot` has the labels of each input.
    """
    reason = f"'{node.name}' has the same batch in all its inputs"
    merged: list[Array] = []
    for axis_labels in chain.from_iterable(by_slot.values()):
        merged = labels.join(merged, axis_labels, reason)
    constants = [slot for slot in by_slot if labels.is_constant(node.inputs[slot])]
    if any(not by_slot[slot] for slot in by_slot if slot not in constants):
        merged = [labels.collapse(axis_labels, 0, reason) for axis_labels in merged]
    for slot in constants:
        rank = len(labels.shape(node.inputs[slot]))
        labels.bind(node, slot, [on_axis(axis_labels, 0, rank) for axis_labels in merged])
    return merged


@rule("ReverseSequence", "CenterCropPad")
def along_some_axes(node: Node, labels: Labels) -> None:
    """Labels pass on the axes that keep their positions."""
    axes = unresized(node, labels)
    if node.op == "ReverseSequence":
        axes -= {node.integer("time_axis", 0), node.integer("batch_axis", 1)}
    labels.set(node.outputs[0], pass_on(node, labels, axes, "works along"))


@rule("Col2Im")
def columns_to_image(node: Node, labels: Labels) -> None:
    """x (N, C * block, L) -> y (N, C, *image): the rows of one channel's block go together."""
    block = int(np.prod(labels.value(node.inputs[2])))
    channels = labels.channels(node.inputs[0], 1, f"'{node.name}' moves it")
    if channels is not None:
        channels = labels.collapse(channels.reshape(-1, block), 1, f"blocks of '{node.name}'").reshape(-1)
        labels.set(node.outputs[0], [on_axis(channels, 1, len(labels.shape(node.outputs[0])))])
