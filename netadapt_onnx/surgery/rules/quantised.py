"""Quantised operators: each is its float counterpart with scales and zero points between the operands.

A removed channel counts as its zero point, so the masked reference puts that in its place.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

from netadapt_onnx.surgery.labels import Labels, Unsupported
from netadapt_onnx.surgery.node import Node
from netadapt_onnx.surgery.rules.attention import project
from netadapt_onnx.surgery.rules.contraction import bind_channels, gemm, matmul
from netadapt_onnx.surgery.rules.convolution import conv
from netadapt_onnx.surgery.rules.elementwise import bind_broadcast, broadcasting, unary
from netadapt_onnx.surgery.rules.movement import concat
from netadapt_onnx.surgery.rules.normalisation import embed_layer_normalisation, softmax
from netadapt_onnx.surgery.rules.pooling import pool
from netadapt_onnx.surgery.rules.registry import rule

# Where the zero point of a contracted input is, by operator and input.
ZERO_POINTS = {
    "QLinearConv": {0: 2},
    "ConvInteger": {0: 2},
    "QLinearMatMul": {0: 2, 3: 5},
    "MatMulInteger": {0: 2, 1: 3},
    "MatMulIntegerToFloat": {0: 4, 1: 5},
    "QGemm": {0: 2, 3: 5},
    "QAttention": {0: 6},
    "DynamicQuantizeLSTM": {1: 9, 2: 11},
}
# Operators whose scales and zero points have a row for each direction, as their weights have a matrix.
BY_DIRECTION = {"DynamicQuantizeLSTM"}


@rule("QLinearConv")
@rule("QLinearConv", domain="com.microsoft")
def quantised_conv(node: Node, labels: Labels) -> None:
    """A Conv of bytes.

    Inputs: x, its scale and zero point; w, its scales and zero points (one or O); those of y; bias (O,).
    """
    if node.integer("channels_last", 0):
        raise Unsupported("channels last")
    _require_scalars(node, labels, (1, 2, 6, 7))
    conv(node.seen_as((0, 3, 8)), labels)
    _per_channel(node, labels, (4, 5), axis=1)


@rule("ConvInteger")
def integer_conv(node: Node, labels: Labels) -> None:
    """A Conv of bytes whose result is an integer sum.

    Inputs: x; w; the zero point of x; zero points of w (one or O).
    """
    _require_scalars(node, labels, (2,))
    conv(node.seen_as((0, 1)), labels)
    _per_channel(node, labels, (3,), axis=1)


@rule("QLinearMatMul")
def quantised_matmul(node: Node, labels: Labels) -> None:
    """A MatMul of bytes.

    Inputs: a and b, each with scale and zero point (b's may differ by column); those of y.
    """
    _require_scalars(node, labels, (1, 2, 6, 7))
    matmul(node.seen_as((0, 3)), labels)
    _per_channel(node, labels, (4, 5), axis=-1)


@rule("MatMulInteger")
def integer_matmul(node: Node, labels: Labels) -> None:
    """A MatMul of bytes whose result is an integer sum.

    Inputs: a; b; their zero points (b's may differ by column).
    """
    _require_scalars(node, labels, (2,))
    matmul(node.seen_as((0, 1)), labels)
    _per_channel(node, labels, (3,), axis=-1)


@rule("MatMulIntegerToFloat", domain="com.microsoft")
def integer_matmul_to_float(node: Node, labels: Labels) -> None:
    """A MatMul of bytes whose result is a float.

    Inputs: a; b; their scales; their zero points (b's may differ by column); a bias.
    """
    _require_scalars(node, labels, (2, 4))
    matmul(node.seen_as((0, 1)), labels)
    _per_channel(node, labels, (3, 5, 6), axis=-1)


@rule("DynamicQuantizeMatMul", domain="com.microsoft")
def dynamic_matmul(node: Node, labels: Labels) -> None:
    """A MatMul by bytes. No removed channel widens the range of the values of a and 0, over which a is quantised.

    Inputs: a; b; its scales; its zero points; a bias.
    """
    matmul(node.seen_as((0, 1)), labels)
    _per_channel(node, labels, (2, 3, 4), axis=-1)


@rule("QGemm", domain="com.microsoft")
def quantised_gemm(node: Node, labels: Labels) -> None:
    """A Gemm of bytes.

    Inputs: a and b, each with scale and zero point (b's may differ by column); a bias; those of y.
    """
    _require_scalars(node, labels, (1, 2, 7, 8))
    gemm(node.seen_as((0, 3, 6)), labels)
    _per_channel(node, labels, (4, 5), axis=-1)


@rule("QAttention", domain="com.microsoft")
def quantised_attention(node: Node, labels: Labels) -> None:
    """A projection of bytes that attends.

    Inputs: x (B, S, I); weights (I, 3 * H * D); a float bias; both scales; a mask; both zero points; a cache.
    """
    if labels.choices.attention == "dims":
        raise Unsupported("queries, keys and values of the same size")
    _require_scalars(node, labels, (3, 6))
    columns = project(node.seen_as((0, 1, 2, 5, 8)), labels)
    for slot in (4, 7):
        bind_channels(node, labels, slot, columns)


@rule("QEmbedLayerNormalization", domain="com.microsoft")
def quantised_embedding(node: Node, labels: Labels) -> None:
    """An EmbedLayerNormalization whose tables, scale and shift are bytes, each with one scale and one zero point."""
    _require_scalars(node, labels, range(8, len(node.inputs)))
    embed_layer_normalisation(node, labels)


@rule("DynamicQuantizeLinear")
def dynamic_quantisation(node: Node, labels: Labels) -> None:
    """Labels pass. The one scale is that of the range of all values and 0, as if removed channels were 0."""
    labels.mask(node, 0)
    labels.set(node.outputs[0], labels.of(node.inputs[0]))


@rule("QLinearAdd", "QLinearMul", domain="com.microsoft")
def quantised_arithmetic(node: Node, labels: Labels) -> None:
    """Labels of both operands are tied.

    Inputs: a and b, each with scale and zero point; those of the result.
    """
    _require_scalars(node, labels, (1, 2, 4, 5, 6, 7))
    broadcasting(node.seen_as((0, 3)), labels)


@rule("QLinearWhere", domain="com.microsoft")
def quantised_where(node: Node, labels: Labels) -> None:
    """Labels of the operands are tied.

    Inputs: a condition; two operands, each with scale and zero point; those of the result.
    """
    _require_scalars(node, labels, (2, 3, 5, 6, 7, 8))
    broadcasting(node.seen_as((0, 1, 4)), labels)


@rule("QLinearConcat", domain="com.microsoft")
def quantised_concat(node: Node, labels: Labels) -> None:
    """A Concat of bytes.

    Inputs: scale and zero point of the result; the operands, each with its own.
    """
    operands = range(2, len(node.inputs), 3)
    _require_scalars(node, labels, [i for i in range(len(node.inputs)) if i not in operands])
    concat(node.seen_as(tuple(operands)), labels)


@rule("QLinearLeakyRelu", "QLinearSigmoid", domain="com.microsoft")
def quantised_activation(node: Node, labels: Labels) -> None:
    """Labels pass. All channels share the scales."""
    _require_scalars(node, labels, range(1, len(node.inputs)))
    unary(node, labels)


@rule("QLinearAveragePool", "QLinearGlobalAveragePool", domain="com.microsoft")
def quantised_pool(node: Node, labels: Labels) -> None:
    """A pooling of bytes. All channels share the scales."""
    if node.integer("channels_last", 0):
        raise Unsupported("channels last")
    pool(node, labels)


@rule("QLinearSoftmax", domain="com.microsoft")
def quantised_softmax(node: Node, labels: Labels) -> None:
    """A Softmax of the opset that an attribute names."""
    softmax(Node(node.index, node.proto, node.integer("opset", 13)), labels)


def _require_scalars(node: Node, labels: Labels, slots: Sequence[int]) -> None:
    """Raise Unsupported unless each of these inputs is one number."""
    if any(node.has(slot) and prod(labels.shape(node.inputs[slot])) > 1 for slot in slots):
        raise Unsupported("scales or zero points by row or channel of an activation")


def _per_channel(node: Node, labels: Labels, slots: Sequence[int], axis: int) -> None:
    """Bind inputs that are one number, or one for each channel along `axis` of the result."""
    y = node.outputs[0]
    channels = labels.channels(y, axis % len(labels.shape(y)), f"scales of '{node.name}'") if labels.of(y) else None
    for slot in slots:
        if channels is not None and node.has(slot):
            if not labels.is_constant(node.inputs[slot]):
                if prod(labels.shape(node.inputs[slot])) > 1:
                    raise Unsupported(f"'{node.inputs[slot]}' is computed at run time")
                continue
            bind_broadcast(node, labels, slot, [channels])
