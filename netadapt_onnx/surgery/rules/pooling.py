"""Poolings and resizing: channels pass, spatial axes are worked along."""

from __future__ import annotations

from netadapt_onnx.surgery.labels import Labels
from netadapt_onnx.surgery.node import Node
from netadapt_onnx.surgery.rules.node_edits import resize_dims
from netadapt_onnx.surgery.rules.reduction import reduced
from netadapt_onnx.surgery.rules.registry import rule


@rule("GlobalAveragePool", "GlobalMaxPool", "GlobalLpPool")
def global_pool(node: Node, labels: Labels) -> None:
    """A reduction over all axes but the first two, which may hold the channels (channels-last LayerNorm)."""
    reduced(node, labels, set(range(2, len(labels.shape(node.inputs[0])))))


@rule("AveragePool", "MaxPool", "LpPool")
def pool(node: Node, labels: Labels) -> None:
    """Labels on the batch and channel axes pass."""
    reason = f"'{node.name}' pools over it"
    factors = [labels.keep_axes(f, (0, 1), reason) for f in labels.of(node.inputs[0])]
    for y in node.outputs:
        labels.set(y, factors)


@rule("Resize", "Upsample")
def resize(node: Node, labels: Labels) -> None:
    """Labels pass on axes whose size stays; sizes given as numbers are rewritten there."""
    x, y = node.inputs[0], node.outputs[0]
    before, after = labels.shape(x), labels.shape(y)
    same = [k for k in range(len(before)) if before[k] == after[k]]
    factors = [labels.keep_axes(f, same, f"'{node.name}' resizes it") for f in labels.of(x)]
    labels.set(y, factors)
    if node.has(3) and factors and "axes" not in node.attributes:
        labels.edit(node, lambda cut, edited: resize_dims(cut, edited, 3, y))
