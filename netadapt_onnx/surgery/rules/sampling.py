"""Operators that sample positions in space or time: labels on the axes that they leave alone pass."""

from __future__ import annotations

import numpy as np

from netadapt_onnx.surgery.factors import on_axis
from netadapt_onnx.surgery.labels import Labels
from netadapt_onnx.surgery.node import Node
from netadapt_onnx.surgery.rules.registry import rule


@rule("GridSample", "RoiAlign", "MaxRoiPool")
def sample(node: Node, labels: Labels) -> None:
    """Channels of x (N, C, ...) pass; a batch is kept whole, and where to sample (grid, regions) stays as it is."""
    reason = f"'{node.name}' samples it"
    for name in node.inputs[1:]:
        for factor in labels.of(name):
            labels.pin(factor, f"'{node.name}' samples where it says")
    axes = (0, 1) if node.op == "GridSample" else (1,)
    labels.set(node.outputs[0], [labels.keep_axes(f, axes, reason) for f in labels.of(node.inputs[0])])


@rule("ReverseSequence", "CenterCropPad")
def along_some_axes(node: Node, labels: Labels) -> None:
    """Labels pass on the axes that keep their positions."""
    before, after = labels.shape(node.inputs[0]), labels.shape(node.outputs[0])
    axes = {k for k in range(len(before)) if before[k] == after[k]}
    if node.op == "ReverseSequence":
        axes -= {node.integer("time_axis", 0), node.integer("batch_axis", 1)}
    reason = f"'{node.name}' works along it"
    labels.set(node.outputs[0], [labels.keep_axes(f, sorted(axes), reason) for f in labels.of(node.inputs[0])])


@rule("Col2Im")
def columns_to_image(node: Node, labels: Labels) -> None:
    """x (N, C * block, L) -> y (N, C, *image): the rows of one channel's block go together."""
    block = int(np.prod(labels.value(node.inputs[2])))
    line = labels.channels(node.inputs[0], 1, f"'{node.name}' moves it")
    if line is not None:
        line = labels.collapse(line.reshape(-1, block), 1, f"blocks of '{node.name}'").reshape(-1)
        labels.set(node.outputs[0], [on_axis(line, 1, len(labels.shape(node.outputs[0])))])
