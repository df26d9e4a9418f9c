"""Cases of quantised operators, between bytes made of conv1's output and floats again (see `rule_cases.py`)."""

from __future__ import annotations

import numpy as np
import onnx

from models import Builder
from rule_cases import CASES, C, S, case, flat, unflat

MICROSOFT = "com.microsoft"
SCALE, ZERO = 0.05, 7


def op(b: Builder, kind: str, inputs: list[str], domain: str = "", **attributes: object) -> str:
    name = b.name(kind.lower())
    b.nodes.append(onnx.helper.make_node(kind, inputs, [f"{name}_out"], name=name, domain=domain, **attributes))
    return f"{name}_out"


def scale(b: Builder, value: object = SCALE) -> str:
    return b.constant(b.name("scale"), np.array(value, np.float32))


def zero(b: Builder, value: object = ZERO) -> str:
    return b.constant(b.name("zero"), np.array(value, np.uint8))


def quantised(b: Builder, x: str) -> list[str]:
    """x as bytes, with its scale and zero point: what quantised operators take."""
    scale_and_zero = [scale(b), zero(b)]
    return [op(b, "QuantizeLinear", [x, *scale_and_zero]), *scale_and_zero]


def real(b: Builder, x: str) -> str:
    return op(b, "DequantizeLinear", [x, scale(b), zero(b)])


def weight(b: Builder, shape: tuple[int, ...], axis: int) -> list[str]:
    """Signed bytes with a scale and a zero point for each output channel."""
    name = b.name("bytes")
    values = b.constant(name, b.rng.integers(-100, 100, shape).astype(np.int8))
    scales = b.constant(f"{name}.scale", b.rng.uniform(0.002, 0.004, shape[axis]).astype(np.float32))
    return [values, scales, b.constant(f"{name}.zero", np.zeros(shape[axis], np.int8))]


def result(b: Builder) -> list[str]:
    return [scale(b), zero(b)]


def quantised_convs(domain: str):  # type: ignore[no-untyped-def]
    def add_case(b: Builder, x: str) -> tuple[str, int]:
        y = quantised(b, x)
        for cin, cout, group in ((C, 10, 1), (10, 10, 10), (10, 8, 2)):
            bias = b.constant(b.name("bias"), b.rng.integers(-500, 500, cout).astype(np.int32))
            inputs = [*y, *weight(b, (cout, cin // group, 3, 3), 0), *result(b), bias]
            y = [op(b, "QLinearConv", inputs, domain, group=group, pads=[1] * 4), *y[1:]]
        return real(b, y[0]), 8

    return add_case


CASES["", "QLinearConv"] = quantised_convs("")
CASES[MICROSOFT, "QLinearConv"] = quantised_convs(MICROSOFT)


@case("ConvInteger", "DynamicQuantizeLinear")
def integer_convs(b: Builder, x: str) -> tuple[str, int]:
    b.nodes.append(onnx.helper.make_node("DynamicQuantizeLinear", [x], ["dq", "dq_s", "dq_z"], name="dynamic"))
    w, _, _ = weight(b, (9, C, 3, 3), 0)
    unsigned = b.constant("w8", b.rng.integers(0, 255, (9, C, 3, 3)).astype(np.uint8))
    a = op(b, "ConvInteger", ["dq", unsigned, "dq_z", zero(b, 128)])
    c = op(b, "ConvInteger", ["dq", w, "dq_z"])
    floats = [b.node("Cast", [t], to=onnx.TensorProto.FLOAT) for t in (a, c)]
    return b.node("Mul", [b.node("Mul", [b.node("Add", floats), "dq_s"]), scale(b, 0.01)]), 9


@case("QLinearMatMul")
def quantised_matmuls(b: Builder, x: str) -> tuple[str, int]:
    y = quantised(b, flat(b, x))
    y = [op(b, "QLinearMatMul", [*y, *weight(b, (C, 10), 1), *result(b)]), *y[1:]]
    w = b.constant("w8", b.rng.integers(0, 255, (10, 6)).astype(np.uint8))
    y = [op(b, "QLinearMatMul", [*y, w, scale(b, 0.003), zero(b, 128), *result(b)]), *y[1:]]
    turned = b.node("Transpose", [y[0]], perm=[0, 2, 1])
    y = [op(b, "QLinearMatMul", [y[0], *y[1:], turned, *y[1:], scale(b, 0.5), zero(b)]), *y[1:]]
    w = weight(b, (S * S, 5), 1)
    return unflat(b, real(b, op(b, "QLinearMatMul", [*y, *w, *result(b)])), 5), 5


@case("MatMulInteger")
def integer_matmul(b: Builder, x: str) -> tuple[str, int]:
    y, _, z = quantised(b, flat(b, x))
    w = b.constant("w8", b.rng.integers(0, 255, (C, 7)).astype(np.uint8))
    zeros = b.constant("w8.zero", b.rng.integers(100, 150, 7).astype(np.uint8))
    y = b.node("Cast", [op(b, "MatMulInteger", [y, w, z, zeros])], to=onnx.TensorProto.FLOAT)
    return unflat(b, b.node("Mul", [y, scale(b, 1e-4)]), 7), 7


@case("MatMulIntegerToFloat", "DynamicQuantizeMatMul", domain=MICROSOFT)
def matmuls_to_float(b: Builder, x: str) -> tuple[str, int]:
    y, s, z = quantised(b, flat(b, x))
    w, scales, zeros = weight(b, (C, 8), 1)
    y = op(b, "MatMulIntegerToFloat", [y, w, s, scales, z, zeros, b.random("bias8", (8,))], MICROSOFT)
    w, scales, zeros = weight(b, (8, 6), 1)
    y = op(b, "DynamicQuantizeMatMul", [y, w, scales, zeros, b.random("bias6", (6,))], MICROSOFT)
    return unflat(b, y, 6), 6


@case("QGemm", domain=MICROSOFT)
def quantised_gemms(b: Builder, x: str) -> tuple[str, int]:
    y = quantised(b, b.node("Flatten", [x]))
    for cin, cout in ((C * S * S, 9), (9, 6)):
        w = weight(b, (cout, cin), 0)
        w[1] = b.constant(f"{w[0]}.small", b.rng.uniform(1e-4, 3e-4, cout).astype(np.float32))
        bias = b.constant(b.name("bias"), b.rng.integers(-500, 500, cout).astype(np.int32))
        y = [op(b, "QGemm", [*y, *w, bias, *result(b)], MICROSOFT, transB=1, alpha=1.0), *y[1:]]
    return b.node("Reshape", [real(b, y[0]), b.constant("back", np.array([1, 6, 1, 1]))]), 6


@case("QLinearAdd", "QLinearMul", "QLinearLeakyRelu", "QLinearSigmoid", "QLinearWhere", domain=MICROSOFT)
def quantised_arithmetic(b: Builder, x: str) -> tuple[str, int]:
    y = quantised(b, x)
    vector = b.constant("vector", b.rng.integers(0, 255, (1, C, 1, 1)).astype(np.uint8))
    y = [op(b, "QLinearAdd", [*y, vector, scale(b), zero(b), *result(b)], MICROSOFT), *y[1:]]
    gate = [op(b, "QLinearSigmoid", [*y, scale(b, 1 / 256), zero(b, 0)], MICROSOFT), scale(b, 1 / 256), zero(b, 0)]
    y = [op(b, "QLinearMul", [*y, *gate, *result(b)], MICROSOFT), *y[1:]]
    leaky = [op(b, "QLinearLeakyRelu", [*y, *result(b)], MICROSOFT, alpha=0.1), *y[1:]]
    positive = b.node("Greater", [x, scale(b, 0)])
    return real(b, op(b, "QLinearWhere", [positive, *y, *leaky, *result(b)], MICROSOFT)), C


@case("QLinearConcat", "QLinearAveragePool", "QLinearGlobalAveragePool", "QLinearSoftmax", domain=MICROSOFT)
def quantised_pools(b: Builder, x: str) -> tuple[str, int]:
    y = quantised(b, x)
    small = op(b, "QLinearAveragePool", [*y, *result(b)], MICROSOFT, kernel_shape=[3, 3], pads=[1] * 4)
    soft = op(b, "QLinearSoftmax", [*y, scale(b, 1 / 64), zero(b, 0)], MICROSOFT, axis=-1, opset=13)
    y = [op(b, "QLinearConcat", [*result(b), *y, small, *y[1:], soft, *y[1:]], MICROSOFT, axis=1), *y[1:]]
    return real(b, op(b, "QLinearGlobalAveragePool", [*y, *result(b)], MICROSOFT)), 3 * C


def lstm(b: Builder, x: str, inputs: int, hidden: int, directions: int, per_channel: bool, **attributes: object) -> str:
    """DynamicQuantizeLSTM with all its inputs; x (T, N, inputs) -> (T, N, directions * hidden)."""
    name, gates = b.name("lstm"), 4 * hidden
    scales = (directions, gates) if per_channel else (directions,)
    kind = np.int8 if per_channel else np.uint8
    middle = 0 if per_channel else 120
    tensors = [x]
    for part, rows in (("w", inputs), ("r", hidden)):
        values = (b.rng.normal(0, 30, (directions, rows, gates)) + middle).clip(*(np.iinfo(kind).min, 250))
        tensors.append(b.constant(f"{name}.{part}", values.astype(kind)))
    tensors += [b.random(f"{name}.b", (directions, 2 * gates)), ""]
    tensors += [b.random(f"{name}.{state}", (directions, S * S // 4, hidden)) for state in ("h", "c")]
    tensors.append(b.random(f"{name}.p", (directions, 3 * hidden)))
    for part in ("w", "r"):
        tensors.append(b.constant(f"{name}.{part}s", b.rng.uniform(0.003, 0.006, scales).astype(np.float32)))
        tensors.append(b.constant(f"{name}.{part}z", np.full(scales, middle, kind)))
    direction = "bidirectional" if directions == 2 else "forward"
    y = op(b, "DynamicQuantizeLSTM", tensors, MICROSOFT, hidden_size=hidden, direction=direction, **attributes)
    y = b.node("Transpose", [y], perm=[0, 2, 1, 3])
    return b.node("Reshape", [y, b.constant(f"{name}.join", np.array([0, 0, directions * hidden]))])


@case("DynamicQuantizeLSTM", domain=MICROSOFT)
def dynamic_lstms(b: Builder, x: str) -> tuple[str, int]:
    steps = b.constant("steps", np.array([C, 4, -1]))
    y = b.node("Transpose", [b.node("Reshape", [x, steps])], perm=[1, 2, 0])  # (T, N, C)
    y = lstm(b, y, C, 6, 1, per_channel=False)
    y = lstm(b, y, 6, 5, 2, per_channel=True)
    y = lstm(b, y, 10, 7, 1, per_channel=False, activations=["Sigmoid", "Sigmoid", "Tanh"])
    return b.node("Unsqueeze", [b.node("Transpose", [y], perm=[2, 0, 1]), b.constant("first", np.array([0]))]), 7


@case("QAttention", domain=MICROSOFT)
def quantised_attention(b: Builder, x: str) -> tuple[str, int]:
    y, s, z = quantised(b, flat(b, x))
    w, scales, zeros = weight(b, (C, 3 * 8), 1)
    y = op(b, "QAttention", [y, w, b.random("qkv.bias", (24,)), s, scales, "", z, zeros], MICROSOFT, num_heads=4)
    y, s, z = quantised(b, y)
    w = b.constant("w8", b.rng.integers(0, 255, (8, 3 * 6)).astype(np.uint8))
    inputs = [y, w, b.random("qkv2.bias", (18,)), s, scale(b, 0.003), "", z, zero(b, 128)]
    y = unflat(b, op(b, "QAttention", inputs, MICROSOFT, num_heads=3), 6)
    return b.node("Concat", [y, b.conv("x", 3, 4, 1)], axis=1), 10


@case("QEmbedLayerNormalization", domain=MICROSOFT)
def quantised_embedding(b: Builder, x: str) -> tuple[str, int]:
    words = b.node("Cast", [b.node("Greater", ["x", scale(b, 0)])], to=onnx.TensorProto.INT32)
    first = b.node("Slice", [words, *(b.constant(n, np.array([v])) for n, v in (("s", 0), ("e", 1), ("a", 1)))])
    ids = b.node("Reshape", [first, b.constant("row", np.array([1, S * S]))])
    shapes = ((2, C), (S * S, C), (2, C), (C,), (C,))
    tables = [b.constant(b.name("table"), b.rng.integers(0, 255, shape).astype(np.uint8)) for shape in shapes]
    scales, zeros = [scale(b, 0.01) for _ in shapes], [zero(b, 120) for _ in shapes]
    inputs = [ids, ids, *tables, "", *scales, *zeros]
    outputs = ["embedded", "lengths"]
    b.nodes.append(
        onnx.helper.make_node("QEmbedLayerNormalization", inputs, outputs, name="embedding", domain=MICROSOFT)
    )
    return b.node("Add", [unflat(b, "embedded", C), x]), C
