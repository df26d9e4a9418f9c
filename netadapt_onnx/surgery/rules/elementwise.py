"""Elementwise operators: operands that meet position by position carry the same labels."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from netadapt_onnx.graph.axis_arrays import Array, on_axis
from netadapt_onnx.surgery.labels import Labels
from netadapt_onnx.surgery.node import Node, align, aligned_shape, labelled
from netadapt_onnx.surgery.rules.reduction import collapsed
from netadapt_onnx.surgery.rules.registry import rule

UNARY = (
    *("Identity", "Cast", "Clip", "Dropout", "Abs", "Neg", "Sign", "Reciprocal", "Exp", "Log", "Sqrt", "Erf"),
    *("Ceil", "Floor", "Round", "BitwiseNot", "Not", "IsInf", "IsNaN"),
    *("Sin", "Cos", "Tan", "Asin", "Acos", "Atan", "Sinh", "Cosh", "Tanh", "Asinh", "Acosh", "Atanh"),
    *("Celu", "Elu", "Gelu", "HardSigmoid", "HardSwish", "LeakyRelu", "Mish", "Relu", "Selu", "Shrink", "Sigmoid"),
    *("Softplus", "Softsign", "Swish", "ThresholdedRelu"),
)
BROADCASTING = (
    *("Add", "Sub", "Mul", "Div", "Mod", "Pow", "Sum", "Mean", "Max", "Min", "PRelu", "Where", "CastLike"),
    *("Equal", "Greater", "GreaterOrEqual", "Less", "LessOrEqual"),
    *("And", "Or", "Xor", "BitShift", "BitwiseAnd", "BitwiseOr", "BitwiseXor"),
)


@rule(*UNARY)
@rule("Gelu", "QuickGelu", domain="com.microsoft")
def unary(node: Node, labels: Labels) -> None:
    """Labels pass. Further inputs (Clip's limits, Dropout's ratio) are scalars."""
    for output in node.outputs:
        labels.set(output, labels.of(node.inputs[0]))


@rule(*BROADCASTING)
@rule("BiasGelu", "FastGelu", domain="com.microsoft")
def broadcasting(node: Node, labels: Labels) -> None:
    """Numpy broadcasting: labels of all operands are tied where they meet; constants are sliced along."""
    slots = [i for i in range(len(node.inputs)) if node.has(i)]
    labels.set(node.outputs[0], broadcast(node, labels, slots, labels.shape(node.outputs[0])))


def broadcast(
    node: Node, labels: Labels, slots: Sequence[int], shape: Sequence[int], product: Sequence[Array] | None = None
) -> list[Array]:
    """Labels of the broadcast of several operands, after tying them; binds the constants among them.

    `product` are the labels of one more operand, which has the result's shape: what Gemm adds its third input to.
    """
    rank = len(shape)
    factors = [align(factor, rank) for slot in slots for factor in labels.of(node.inputs[slot])]
    merged: list[Array] = []
    for factor in _whole_heads(node, labels, [*(product or ()), *factors]):
        merged = labels.join(merged, factor, f"meets unlabelled values in '{node.name}'")
    runtime = [node.inputs[slot] for slot in slots if not labels.is_constant(node.inputs[slot])]
    operands = [(f"'{name}'", aligned_shape(labels.shape(name), rank), labels.of(name)) for name in runtime]
    if product is not None:
        operands.append(("its product", tuple(shape), tuple(product)))
    for name, lengths, own in operands:
        for axis, length in enumerate(lengths):
            if length > 1 and not labelled([align(f, rank) for f in own], axis):
                reason = f"'{node.name}' combines it with {name}, which cannot be cut"
                merged = [labels.collapse(f, axis, reason) for f in merged]
    merged += _stretched(node, labels, slots, shape, merged)
    for slot in slots:
        if labels.is_constant(node.inputs[slot]):
            bind_broadcast(node, labels, slot, merged)
    return merged


def _whole_heads(node: Node, labels: Labels, factors: Sequence[Array]) -> list[Array]:
    """Values along the dimensions of heads (rotary angles) that meet heads x dimensions tie dimensions, not heads.

    Otherwise the same dimension of all heads would be, which is what `--attention dims` asks for.
    """
    kept = []
    # Nothing but the shapes of the others counts, of which a sum of a thousand tensors has a few; one that comes again
    # after another may find less in its way.
    others = {other.shape: other for other in factors}
    for factor in factors:
        for other in [*others.values()] * min(2, len(others)):
            for axis in (*_dimensions(labels, factor, other.shape), *_dimensions(labels, other, factor.shape)):
                factor = labels.collapse(factor, axis, f"dimensions of heads in '{node.name}'")
        kept.append(factor)
    return kept


def _dimensions(labels: Labels, joint: Array, shape: Sequence[int]) -> list[int]:
    """The labelled axes of `joint` that a tensor of `shape` varies along too, if the first (heads) is none of them.

    Others may lie between them: reference points of deformable attention (level, coordinate) meet its offsets (head,
    level, point, coordinate).
    """
    labelled_axes = [k for k, n in enumerate(joint.shape) if n > 1]
    inner = [k for k in labelled_axes if shape[k] > 1]
    outer = [k for k in labelled_axes if shape[k] == 1]
    heads = labels.choices.attention == "heads" and inner and outer and min(outer) < min(inner)
    return inner if heads else []


def _stretched(
    node: Node, labels: Labels, slots: Sequence[int], shape: Sequence[int], merged: Sequence[Array]
) -> list[Array]:
    """Fresh labels on axes that float constants alone give the result.

    Such values may go with whatever they are combined with further on (LayerNorm's scale over its deviation).
    """
    rank = len(shape)
    constants = [slot for slot in slots if labels.is_constant(node.inputs[slot])]
    others = [slot for slot in slots if not labels.is_constant(node.inputs[slot])]
    if not others or any(labels.kind(node.inputs[slot]) != "f" for slot in constants):
        return []
    widths = np.max([aligned_shape(labels.shape(node.inputs[slot]), rank) for slot in others], axis=0)
    alone = [k for k in range(rank) if widths[k] == 1 < shape[k] and not labelled(merged, k)]
    return [on_axis(labels.fresh(shape[k]), k, rank) for k in alone]


def bind_broadcast(node: Node, labels: Labels, slot: int, factors: Sequence[Array]) -> None:
    """Bind a constant operand: it carries the labels of the axes in which it is not broadcast."""
    shape = labels.shape(node.inputs[slot])
    if not shape:
        return
    bound: list[Array] = []
    for factor in factors:
        if factor.ndim < len(shape):
            factor = align(factor, len(shape))
        lengths = aligned_shape(shape, factor.ndim)
        for axis in _dimensions(labels, factor, lengths):
            factor = labels.collapse(factor, axis, f"dimensions of heads in '{node.name}'")
        axes = [k for k, n in enumerate(lengths) if n > 1 and factor.shape[k] > 1]
        if axes:
            factor = labels.keep_axes(factor, axes, f"broadcast in '{node.name}'")
            bound.append(factor.reshape(factor.shape[factor.ndim - len(shape) :]))
    labels.bind(node, slot, bound)


@rule("CumSum", "Trilu")
def along_unlabelled_axes(node: Node, labels: Labels) -> None:
    """Labels pass on axes the operator does not work along; on those it does, they are tied."""
    rank = len(labels.shape(node.inputs[0]))
    worked_along = labels.integers(node, 1) if node.op == "CumSum" else None
    axes = [axis % rank for axis in worked_along or (-2, -1)]
    labels.set(node.outputs[0], collapsed(node, labels, axes, f"{node.op} '{node.name}' works along it"))


@rule("QuantizeLinear", "DequantizeLinear")
def quantise(node: Node, labels: Labels) -> None:
    """Labels pass; per-channel scales and zero points are sliced along. On weights it is a view (`Labels.bind`)."""
    if labels.is_view(node.outputs[0]):
        return
    factors = labels.of(node.inputs[0])
    if factors:
        axis = node.integer("axis", 1) % factors[0].ndim
        for slot in range(1, len(node.inputs)):
            if node.has(slot) and labels.shape(node.inputs[slot]):
                channels = labels.channels(node.inputs[0], axis, f"per-channel scales of '{node.name}'")
                if channels is not None:
                    labels.bind(node, slot, [channels])
    labels.set(node.outputs[0], factors)
