"""Poolings and resizing: channels pass, spatial axes are worked along."""

from __future__ import annotations

from netadapt_onnx.surgery.labels import Labels
from netadapt_onnx.surgery.node import Node
from netadapt_onnx.surgery.rules.node_edits import resize_dims
from netadapt_onnx.surgery.rules.reduction import pass_on, reduced, unresized
from netadapt_onnx.surgery.rules.registry import rule


@rule("GlobalAveragePool", "GlobalMaxPool", "GlobalLpPool")
def global_pool(node: Node, labels: Labels) -> None:
    """A reduction over all axes but the first two, which may hold the channels (channels-last LayerNorm)."""
    reduced(node, labels, set(range(2, len(labels.shape(node.inputs[0])))))


@rule("AveragePool", "MaxPool", "LpPool")
def pool(node: Node, labels: Labels) -> None:
    """Labels on the batch and channel axes pass."""
    factors = pass_on(node, labels, (0, 1), "pools over")
    for y in node.outputs:
        labels.set(y, factors)


@rule("Resize", "Upsample")
def resize(node: Node, labels: Labels) -> None:
    """Labels pass on axes whose size stays; sizes given as numbers are rewritten there."""
    y = node.outputs[0]
    factors = pass_on(node, labels, unresized(node, labels), "resizes")
    labels.set(y, factors)
    if node.has(3) and factors and "axes" not in node.attributes:
        labels.edit(node, lambda cut, edited: resize_dims(cut, edited, 3, y))
