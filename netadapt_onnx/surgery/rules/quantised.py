"""Quantised operators: each is its float counterpart with scales and zero points between the operands.

A removed channel counts as its zero point, so the masked reference puts that in its place.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
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
from netadapt_onnx.surgery.rules.registry import Rule, rule

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


@dataclass(frozen=True)
class Counterpart:
    """The float operator that an operator of bytes amounts to.

    Attributes:
        rule: The rule of the float operator.
        operands: The inputs that are operands of that one, in its order.
        scalars: The inputs that must be one number.
        per_channel: The inputs that are one number, or one for each channel of the result.
        axis: The axis of the result's channels.
    """

    rule: Rule
    operands: tuple[int, ...]
    scalars: tuple[int, ...] = ()
    per_channel: tuple[int, ...] = ()
    axis: int = -1

    def __call__(self, node: Node, labels: Labels) -> None:
        """Apply the rule of the float operator, and bind scales and zero points."""
        if node.integer("channels_last", 0):
            raise Unsupported("channels last")
        _require_scalars(node, labels, self.scalars)
        self.rule(node.seen_as(self.operands), labels)
        if self.per_channel:
            _bind_per_channel(node, labels, self.per_channel, self.axis)


# Inputs: x, its scale and zero point; w, its scales and zero points (one or O); those of y; bias (O,).
for domain in ("", "com.microsoft"):
    rule("QLinearConv", domain=domain)(Counterpart(conv, (0, 3, 8), (1, 2, 6, 7), (4, 5), axis=1))
# Inputs: x; w; the zero point of x; zero points of w (one or O). The result is an integer sum, as MatMulInteger's.
rule("ConvInteger")(Counterpart(conv, (0, 1), (2,), (3,), axis=1))
# Inputs: a and b, each with scale and zero point (b's may differ by column); those of y.
rule("QLinearMatMul")(Counterpart(matmul, (0, 3), (1, 2, 6, 7), (4, 5)))
# Inputs: a; b; their zero points (b's may differ by column).
rule("MatMulInteger")(Counterpart(matmul, (0, 1), (2,), (3,)))
# Inputs: a; b; their scales; their zero points (b's may differ by column); a bias.
rule("MatMulIntegerToFloat", domain="com.microsoft")(Counterpart(matmul, (0, 1), (2, 4), (3, 5, 6)))
# Inputs: a; b; its scales; its zero points; a bias. No removed channel widens the range of the values of a and 0, over
# which a is quantised.
rule("DynamicQuantizeMatMul", domain="com.microsoft")(Counterpart(matmul, (0, 1), (), (2, 3, 4)))
# Inputs: a and b, each with scale and zero point (b's may differ by column); a bias; those of y.
rule("QGemm", domain="com.microsoft")(Counterpart(gemm, (0, 3, 6), (1, 2, 7, 8), (4, 5)))
# Inputs: a and b, each with scale and zero point; those of the result.
rule("QLinearAdd", "QLinearMul", domain="com.microsoft")(Counterpart(broadcasting, (0, 3), (1, 2, 4, 5, 6, 7)))
# Inputs: a condition; two operands, each with scale and zero point; those of the result.
rule("QLinearWhere", domain="com.microsoft")(Counterpart(broadcasting, (0, 1, 4), (2, 3, 5, 6, 7, 8)))


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


def _bind_per_channel(node: Node, labels: Labels, slots: Sequence[int], axis: int) -> None:
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
