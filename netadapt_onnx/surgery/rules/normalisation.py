"""Normalisations: over the batch, over groups of channels, over channels."""

from __future__ import annotations

from collections.abc import Sequence

from netadapt_onnx.graph.axis_arrays import Array, on_axis
from netadapt_onnx.surgery.labels import Labels, Unsupported
from netadapt_onnx.surgery.node import Node
from netadapt_onnx.surgery.rules.contraction import bind_channels
from netadapt_onnx.surgery.rules.elementwise import bind_broadcast, broadcast
from netadapt_onnx.surgery.rules.reduction import collapsed, worked_over
from netadapt_onnx.surgery.rules.registry import rule


@rule("BatchNormalization")
def batch_normalisation(node: Node, labels: Labels) -> None:
    """Scale, shift, mean and variance (C,) follow the channels of x (N, C, ...); so do the statistics put out."""
    channels = labels.channels(node.inputs[0], 1, f"'{node.name}' works along it")
    if channels is None:
        return
    for slot in range(1, 5):
        bind_channels(node, labels, slot, channels)
    labels.set(node.outputs[0], [on_axis(channels, 1, len(labels.shape(node.inputs[0])))])
    for statistic in node.outputs[1:]:
        labels.set(statistic, [channels])


@rule("InstanceNormalization")
def instance_normalisation(node: Node, labels: Labels) -> None:
    """Each channel is normalised over its positions; labels on those are reduced over (a decomposed GroupNorm)."""
    rank = len(labels.shape(node.inputs[0]))
    factors = worked_over(node, labels, labels.of(node.inputs[0]), [k for k in range(rank) if k != 1], "normalises")
    for channels in (f.reshape(-1) for f in factors if f.shape[1] > 1):
        for slot in (1, 2):
            bind_channels(node, labels, slot, channels)
    labels.set(node.outputs[0], factors)


@rule("GroupNormalization")
@rule("GroupNorm", domain="com.microsoft")
def group_normalisation(node: Node, labels: Labels) -> None:
    """The same channels are kept in every group, so that groups stay equal."""
    if node.domain:
        raise Unsupported("channels-last GroupNorm")
    channels = labels.channels(node.inputs[0], 1, f"'{node.name}' works along it")
    if channels is None:
        return
    groups = node.integer("num_groups", 1)
    table = channels.reshape(groups, -1)
    first = labels.collapse(table, 0, f"groups of '{node.name}'") if groups > 1 else table
    if not first.any():
        return
    for slot in (1, 2):
        shape = labels.shape(node.inputs[slot])
        if shape == (len(channels),):
            bind_channels(node, labels, slot, channels)
        elif shape != (groups,):  # opset 18 has one scale per group
            raise Unsupported(f"'{node.inputs[slot]}' {shape} has no value for each of {len(channels)} channels")
    labels.gather(node)
    labels.set(node.outputs[0], [on_axis(channels, 1, len(labels.shape(node.inputs[0])))])


@rule("LayerNormalization", "RMSNormalization", "SimplifiedLayerNormalization")
@rule("SimplifiedLayerNormalization", domain="com.microsoft")
def layer_normalisation(node: Node, labels: Labels) -> None:
    """Labels pass: the node normalises over the last axes, after a cut over fewer channels. Scale and shift are cut."""
    x = node.inputs[0]
    rank = len(labels.shape(x))
    first = node.integer("axis", -1) % rank
    kept = worked_over(node, labels, labels.of(x), range(first, rank), "normalises")
    for slot in range(1, len(node.inputs)):
        if node.has(slot):
            if not labels.is_constant(node.inputs[slot]):
                raise Unsupported("its scale is computed at run time")
            bind_broadcast(node, labels, slot, kept)
    labels.set(node.outputs[0], kept)
    _set_statistics(node, labels, kept, first)


@rule("SkipLayerNormalization", "SkipSimplifiedLayerNormalization", domain="com.microsoft")
def skip_layer_normalisation(node: Node, labels: Labels) -> None:
    """A LayerNorm over the last axis of x + skip (+ bias), which share their channels; the sum may be an output too."""
    names, simplified = node.inputs, node.op.startswith("SkipSimplified")
    added = 3 if simplified else 4
    slots = [0, 1, *([added] if node.has(added) else [])]
    last = len(labels.shape(names[0])) - 1
    factors = broadcast(node, labels, slots, labels.shape(names[0]))
    kept = worked_over(node, labels, factors, [last], "normalises")
    for slot in range(2, added):
        if node.has(slot):
            bind_broadcast(node, labels, slot, kept)
    labels.set(node.outputs[0], kept)
    _set_statistics(node, labels, kept, last)
    if len(node.outputs) > 3:
        labels.set(node.outputs[3], factors)


def _set_statistics(node: Node, labels: Labels, factors: Sequence[Array], first: int) -> None:
    """Mean and deviation over the axes from `first` on, if they are put out, have the labels of those in front."""
    for statistic in filter(None, node.outputs[1:3]):
        labels.set(statistic, [f for f in factors if all(n == 1 for n in f.shape[first:])])


@rule("EmbedLayerNormalization", domain="com.microsoft")
def embed_layer_normalisation(node: Node, labels: Labels) -> None:
    """The node starts H channels: it adds word, position and segment embeddings (rows, H) and normalises the sum."""
    tables = [slot for slot in (2, 3, 4) if node.has(slot)]
    if not all(labels.is_constant(node.inputs[slot]) for slot in tables):
        raise Unsupported("embeddings computed at run time")
    channels = labels.fresh(labels.shape(node.inputs[2])[1])
    for slot in tables:
        labels.bind(node, slot, [on_axis(channels, 1, 2)])
    for slot in (5, 6):
        bind_channels(node, labels, slot, channels)
    labels.owns(node, channels, 2, 1)
    labels.gather(node)
    for output in (node.outputs[0], *node.outputs[2:]):
        if output:
            labels.set(output, [on_axis(channels, 2, 3)])


@rule("LRN")
def local_response_normalisation(node: Node, labels: Labels) -> None:
    """Labels pass: neighbouring channels are summed, after a cut those that remain."""
    if labels.of(node.inputs[0]):
        labels.gather(node)
    labels.set(node.outputs[0], labels.of(node.inputs[0]))


@rule("LpNormalization", "MeanVarianceNormalization")
def normalise_axes(node: Node, labels: Labels) -> None:
    """Labels pass: channels among the axes that are normalised are so over those that remain."""
    rank = len(labels.shape(node.inputs[0]))
    default = [node.integer("axis", -1)] if node.op == "LpNormalization" else [0, 2, 3]
    axes = [a % rank for a in node.attributes.get("axes", default)]
    labels.set(node.outputs[0], worked_over(node, labels, labels.of(node.inputs[0]), axes, "normalises"))


@rule("Softmax", "LogSoftmax", "Hardmax")
def softmax(node: Node, labels: Labels) -> None:
    """Probabilities over an axis fix it. Before opset 13 all axes from `axis` on are one."""
    rank = len(labels.shape(node.inputs[0]))
    axis = node.integer("axis", -1 if node.opset >= 13 else 1) % rank
    axes = [axis] if node.opset >= 13 else list(range(axis, rank))
    labels.set(node.outputs[0], collapsed(node, labels, axes, f"'{node.name}' is a {node.op} over it"))
