"""One small graph per operator that surgery has a rule for: conv1 (12 channels), the operator, conv2 to the output."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import onnx
from onnx import TensorProto, numpy_helper

from models import Builder
from netadapt_onnx.surgery.rules.elementwise import BROADCASTING, UNARY
from netadapt_onnx.surgery.rules.reduction import REDUCTIONS

C = 12  # channels of conv1
S = 8  # height and width
Case = Callable[[Builder, str], tuple[str, int]]  # (builder, tensor (1, C, S, S)) -> (tensor (1, c, ?, ?), c)

OPSETS = {"Swish": 24, "RMSNormalization": 23, "GroupNormalization": 21}
CASES: dict[tuple[str, str], Case] = {}


def case(*ops: str, domain: str = "") -> Callable[[Case], Case]:
    def register(function: Case) -> Case:
        for op in ops:
            CASES[domain, op] = function
        return function

    return register


def build(domain: str, op: str) -> onnx.ModelProto:
    """The case of one operator as a model; conv1 is prunable unless the operator fixes its channels."""
    b = Builder(seed=len(op), opset=OPSETS.get(op, 20))
    x = b.conv("x", 3, C, 1)
    y, channels = CASES[domain, op](b, x)
    b.conv(y, channels, 5, 1, name="last")
    graph = onnx.helper.make_graph(
        b.nodes,
        "case",
        [onnx.helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 3, S, S])],
        [onnx.helper.make_tensor_value_info("last_out", TensorProto.FLOAT, None)],
        b.initializers,
    )
    imports = [onnx.helper.make_opsetid("", b.opset), onnx.helper.make_opsetid("com.microsoft", 1)]
    return onnx.helper.make_model(graph, opset_imports=imports, ir_version=10)


def ints(b: Builder, values: Sequence[int]) -> str:
    return b.constant(b.name("ints"), np.array(values, np.int64))


def per_channel(b: Builder) -> str:
    return b.constant(b.name("vector"), b.rng.uniform(0.5, 1.5, (C, 1, 1)).astype(np.float32))


def flat(b: Builder, x: str) -> str:
    """(1, C, S, S) -> (1, S * S, C)."""
    return b.node("Transpose", [b.node("Reshape", [x, ints(b, [1, C, S * S])])], perm=[0, 2, 1])


def unflat(b: Builder, x: str, channels: int) -> str:
    """(1, S * S, channels) -> (1, channels, S, S)."""
    return b.node("Reshape", [b.node("Transpose", [x], perm=[0, 2, 1]), ints(b, [1, channels, S, S])])


BOOLEAN_INPUT = {"And", "Or", "Xor", "Not"}
BOOLEAN_RESULT = BOOLEAN_INPUT | {"Equal", "Greater", "GreaterOrEqual", "Less", "LessOrEqual", "IsInf", "IsNaN"}
INTEGER = {"BitShift", "BitwiseAnd", "BitwiseOr", "BitwiseXor", "BitwiseNot"}
WITHIN_ONE = {"Acos", "Asin", "Atanh"}
ABOVE_ONE = {"Acosh", "Log", "Sqrt"}


def elementwise(op: str, inputs: int) -> Case:
    def add_case(b: Builder, x: str) -> tuple[str, int]:
        if op in WITHIN_ONE:
            x = b.node("Mul", [b.node("Tanh", [x]), b.constant("most", np.float32(0.9))])
        if op in ABOVE_ONE:
            x = b.node("Add", [b.node("Abs", [x]), b.constant("one", np.float32(1.5))])
        operands = [x] + [per_channel(b) for _ in range(inputs - 1)]
        if op in BOOLEAN_INPUT:
            zero = b.constant("zero", np.float32(0))
            operands = [b.node("Greater", [operand, zero]) for operand in operands]
        elif op in INTEGER:
            operands = [b.node("Cast", [b.node("Abs", [o])], to=TensorProto.UINT32) for o in operands]
        elif op == "Where":
            operands = [b.node("Greater", [x, b.constant("zero", np.float32(0))]), x, per_channel(b)]
        elif op == "Clip":
            operands = [x, b.constant("low", np.float32(-0.5)), b.constant("high", np.float32(0.5))]
        attributes: dict[str, object] = {"to": TensorProto.DOUBLE} if op == "Cast" else {}
        if op == "Mod":
            attributes["fmod"] = 1
        if op == "BitShift":
            attributes["direction"] = "RIGHT"
        y = b.node(op, operands, **attributes)
        if op in BOOLEAN_RESULT | INTEGER | {"Cast"}:
            y = b.node("Add", [b.node("Cast", [y], to=TensorProto.FLOAT), x])
        return y, C

    return add_case


for _op in UNARY:
    CASES["", _op] = elementwise(_op, 1)
for _op in BROADCASTING:
    CASES["", _op] = elementwise(_op, 2)


@case("Gelu", "QuickGelu", domain="com.microsoft")
def contrib_activation(b: Builder, x: str) -> tuple[str, int]:
    b.nodes.append(onnx.helper.make_node("Gelu", [x], ["gelu_out"], name="gelu", domain="com.microsoft"))
    return "gelu_out", C


def reduction(op: str) -> Case:
    def add_case(b: Builder, x: str) -> tuple[str, int]:
        small = b.node("Sigmoid", [x])
        over_space = b.node(op, [small, ints(b, [2, 3])], keepdims=1)
        over_channels = b.node(op, [small, ints(b, [1])], keepdims=1)
        return b.node("Mul", [b.node("Mul", [small, over_space]), over_channels]), C

    return add_case


for _op in REDUCTIONS:
    CASES["", _op] = reduction(_op)


@case("Conv")
def convs(b: Builder, x: str) -> tuple[str, int]:
    x = b.conv(x, C, C, group=C)  # depthwise
    x = b.conv(x, C, 2 * C, group=C)  # depthwise with a multiplier
    x = b.conv(x, 2 * C, 16, group=4)  # the same index in every group
    x = b.conv(x, 16, 16, group=8)  # whole groups
    return x, 16


@case("ConvTranspose")
def transposed_convs(b: Builder, x: str) -> tuple[str, int]:
    for cin, cout, group in ((C, 8, 1), (8, 16, 2), (16, 16, 16), (16, 16, 8)):
        name = b.name("up")
        weight = b.random(f"{name}.weight", (cin, cout // group, 3, 3), cin)
        x = b.node("ConvTranspose", [x, weight, b.random(f"{name}.bias", (cout,))], name, group=group)
    return x, 16


@case("MatMul")
def matmuls(b: Builder, x: str) -> tuple[str, int]:
    tokens = b.node("MatMul", [flat(b, x), b.random("query", (C, 6), C)], "query")
    keys = b.node("MatMul", [flat(b, x), b.random("key", (C, 6), C)], "key")
    scores = b.node("Softmax", [b.node("MatMul", [tokens, b.node("Transpose", [keys], perm=[0, 2, 1])])], axis=-1)
    return unflat(b, b.node("MatMul", [scores, flat(b, x)]), C), C


@case("Gemm")
def gemms(b: Builder, x: str) -> tuple[str, int]:
    y = b.fc(b.node("Flatten", [x]), C * S * S, 10)
    name = b.name("fc")
    y = b.node("Gemm", [y, b.random("plain", (10, 6), 10), b.random("plain_bias", (6,))], name)
    return b.node("Reshape", [y, ints(b, [1, 6, 1, 1])]), 6


@case("Einsum")
def einsum(b: Builder, x: str) -> tuple[str, int]:
    y = b.node("Einsum", [x, b.random("mix", (C, 7), C)], "mix", equation="nchw,ck->nkhw")
    return b.node("Einsum", [y, b.node("Sigmoid", [y])], equation="nchw,nchw->nchw"), 7


@case("FusedMatMul", domain="com.microsoft")
def fused_matmul(b: Builder, x: str) -> tuple[str, int]:
    y, w = flat(b, x), b.random("w", (5, C), C)
    b.nodes.append(
        onnx.helper.make_node("FusedMatMul", [y, w], ["fused"], name="fused", domain="com.microsoft", transB=1)
    )
    return unflat(b, "fused", 5), 5


@case("Transpose", "Flatten", "Reshape")
def moved(b: Builder, x: str) -> tuple[str, int]:
    back = b.node("Transpose", [b.node("Transpose", [x], perm=[0, 2, 3, 1])], perm=[0, 3, 1, 2])
    return b.node("Reshape", [b.node("Flatten", [back], axis=2), ints(b, [1, -1, S, S])]), C


@case("Squeeze", "Unsqueeze")
def squeezed(b: Builder, x: str) -> tuple[str, int]:
    y = b.node("Unsqueeze", [b.node("Squeeze", [x, ints(b, [0])]), ints(b, [0, 1])])
    return b.node("Squeeze", [y, ints(b, [1])]), C


@case("Concat")
def concat(b: Builder, x: str) -> tuple[str, int]:
    y = b.node("Concat", [x, b.node("Relu", [x]), b.random("extra", (1, 4, S, S))], axis=1)
    return y, 2 * C + 4


@case("Split")
def split(b: Builder, x: str) -> tuple[str, int]:
    b.nodes.append(onnx.helper.make_node("Split", [x], ["s1", "s2", "s3"], name="split", axis=1, num_outputs=3))
    b.nodes.append(onnx.helper.make_node("Split", ["s1", ints(b, [1, 3])], ["s4", "s5"], name="split2", axis=1))
    gated = b.node("Mul", ["s2", b.node("Sigmoid", ["s3"])])
    return b.node("Concat", [gated, "s5"], axis=1), 7


@case("Slice")
def sliced(b: Builder, x: str) -> tuple[str, int]:
    even = b.node("Slice", [x, ints(b, [2]), ints(b, [7]), ints(b, [1])])
    odd = b.node("Slice", [x, ints(b, [1]), ints(b, [2**62]), ints(b, [1]), ints(b, [2])])
    reverse = b.node("Slice", [x, ints(b, [-1]), ints(b, [-(2**62)]), ints(b, [1]), ints(b, [-1])])
    return b.node("Concat", [even, odd, reverse], axis=1), 5 + 6 + C


@case("Pad")
def padded(b: Builder, x: str) -> tuple[str, int]:
    y = b.node("Pad", [x, ints(b, [0, 2, 0, 0, 0, 3, 0, 0])])
    return b.node("Add", [y, b.conv("x", 3, C + 5, 1)]), C + 5


@case("Expand")
def expanded(b: Builder, x: str) -> tuple[str, int]:
    gate = b.node("GlobalAveragePool", [x])
    return b.node("Mul", [x, b.node("Expand", [gate, ints(b, [1, C, S, S])])]), C


@case("ConstantOfShape")
def filled(b: Builder, x: str) -> tuple[str, int]:
    shape = b.node("Shape", [x])
    size = b.node("Gather", [shape, ints(b, [0])])
    dims = b.node("Concat", [size, ints(b, [C, 1, 1])], axis=0)
    zeros = b.node("ConstantOfShape", [dims], value=numpy_helper.from_array(np.array([0.5], np.float32)))
    return b.node("Add", [x, zeros]), C


def recurrent(op: str, gates: int) -> Case:
    def add_case(b: Builder, x: str) -> tuple[str, int]:
        y = b.node("Transpose", [b.node("Reshape", [x, ints(b, [C, 4, -1])])], perm=[1, 2, 0])  # (T, N, C)
        sizes = [C, 6, 10]
        for directions, inputs, hidden in ((1, sizes[0], sizes[1]), (2, sizes[1], sizes[2] // 2)):
            name = b.name(op.lower())
            tensors = [
                y,
                b.random(f"{name}.w", (directions, gates * hidden, inputs), inputs),
                b.random(f"{name}.r", (directions, gates * hidden, hidden), hidden),
                b.random(f"{name}.b", (directions, 2 * gates * hidden)),
                "",
                b.random(f"{name}.h", (directions, S * S // 4, hidden)),
            ]
            direction = "bidirectional" if directions == 2 else "forward"
            y = b.node(op, tensors, name, hidden_size=hidden, direction=direction)
            y = b.node("Transpose", [y], perm=[0, 2, 1, 3])
            y = b.node("Reshape", [y, ints(b, [0, 0, directions * hidden])])
        return b.node("Unsqueeze", [b.node("Transpose", [y], perm=[2, 0, 1]), ints(b, [0])]), sizes[2]

    return add_case


for _op, _gates in (("LSTM", 4), ("GRU", 3), ("RNN", 1)):
    CASES["", _op] = recurrent(_op, _gates)


@case("Tile")
def tiled(b: Builder, x: str) -> tuple[str, int]:
    return b.node("Tile", [x, ints(b, [1, 2, 1, 1])]), 2 * C


@case("DepthToSpace")
def depth_to_space(b: Builder, x: str) -> tuple[str, int]:
    y = b.conv(b.node("DepthToSpace", [x], blocksize=2, mode="CRD"), 3, 16, 1)
    return b.node("DepthToSpace", [y], blocksize=2, mode="DCR"), 4


@case("SpaceToDepth")
def space_to_depth(b: Builder, x: str) -> tuple[str, int]:
    return b.node("SpaceToDepth", [x], blocksize=2), 4 * C


@case("Gather")
def gathered(b: Builder, x: str) -> tuple[str, int]:
    picked = b.node("Gather", [x, ints(b, [0, 3, 3, -1, 7, 2])], axis=1)
    words = b.node("Cast", [b.node("Greater", ["x", b.constant("zero", np.float32(0))])], to=TensorProto.INT64)
    word = b.node("Slice", [words, ints(b, [0]), ints(b, [1]), ints(b, [1])])
    embedded = b.node("Gather", [b.random("table", (2, 6)), word], "embed")  # (1, 1, S, S, 6)
    moved = b.node("Transpose", [b.node("Squeeze", [embedded, ints(b, [1])])], perm=[0, 3, 1, 2])
    return b.node("Add", [picked, moved]), 6


@case("ArgMax", "ArgMin")
def arg(b: Builder, x: str) -> tuple[str, int]:
    along_space = b.node("Cast", [b.node("ArgMax", [x], axis=3, keepdims=1)], to=TensorProto.FLOAT)
    return b.node("Mul", [x, along_space]), C


@case("TopK")
def top_k(b: Builder, x: str) -> tuple[str, int]:
    name = b.name("topk")
    b.nodes.append(onnx.helper.make_node("TopK", [x, ints(b, [3])], [name, f"{name}_i"], name=name, axis=3))
    return name, C


@case("GatherElements")
def gather_elements(b: Builder, x: str) -> tuple[str, int]:
    return b.node("GatherElements", [x, b.constant("index", np.zeros((1, C, S, 1), np.int64))], axis=3), C


@case("CumSum", "Trilu")
def along_space(b: Builder, x: str) -> tuple[str, int]:
    return b.node("Trilu", [b.node("CumSum", [x, b.constant("axis", np.array(2, np.int64))])]), C


@case("QuantizeLinear", "DequantizeLinear")
def quantised(b: Builder, x: str) -> tuple[str, int]:
    scale = b.constant("scale", b.rng.uniform(0.01, 0.05, C).astype(np.float32))
    zero = b.constant("zero", np.zeros(C, np.int8))
    y = b.node("DequantizeLinear", [b.node("QuantizeLinear", [x, scale, zero], axis=1), scale, zero], axis=1)
    integers = b.constant("w8", b.rng.integers(-127, 127, (9, C, 1, 1)).astype(np.int8))
    steps = b.constant("w8_scale", b.rng.uniform(0.01, 0.02, 9).astype(np.float32))
    zeros = b.constant("w8_zero", np.zeros(9, np.int8))
    weight = b.node("DequantizeLinear", [integers, steps, zeros], axis=0)
    return b.node("Conv", [y, weight], "quantised"), 9


@case("BatchNormalization")
def batchnorm(b: Builder, x: str) -> tuple[str, int]:
    return b.batchnorm(x, C), C


@case("InstanceNormalization")
def instancenorm(b: Builder, x: str) -> tuple[str, int]:
    y = b.node("InstanceNormalization", [x, b.random("in_scale", (C,)), b.random("in_bias", (C,))])
    grouped = b.node("Reshape", [y, ints(b, [1, 3, -1])])  # a decomposed GroupNorm
    y = b.node("InstanceNormalization", [grouped, b.random("gn_scale", (3,)), b.random("gn_bias", (3,))])
    return b.node("Reshape", [y, ints(b, [1, C, S, S])]), C


@case("GroupNormalization")
def groupnorm(b: Builder, x: str) -> tuple[str, int]:
    return b.node("GroupNormalization", [x, b.random("s", (C,)), b.random("h", (C,))], num_groups=3, epsilon=1e-3), C


def layernorm(op: str, domain: str = "") -> Case:
    def add_case(b: Builder, x: str) -> tuple[str, int]:
        inputs = [flat(b, x), b.random("ln_scale", (C,))] + ([b.random("ln_bias", (C,))] if op[0] == "L" else [])
        b.nodes.append(onnx.helper.make_node(op, inputs, ["ln"], name="ln", axis=-1, domain=domain))
        return unflat(b, "ln", C), C

    return add_case


CASES["", "LayerNormalization"] = layernorm("LayerNormalization")
CASES["", "RMSNormalization"] = layernorm("RMSNormalization")
CASES["", "SimplifiedLayerNormalization"] = layernorm("SimplifiedLayerNormalization")
CASES["com.microsoft", "SimplifiedLayerNormalization"] = CASES["", "SimplifiedLayerNormalization"]


@case("GroupNorm", domain="com.microsoft")
def contrib_groupnorm(b: Builder, x: str) -> tuple[str, int]:
    channels_last = b.node("Transpose", [x], perm=[0, 2, 3, 1])
    inputs = [channels_last, b.random("s", (C,)), b.random("h", (C,))]
    b.nodes.append(
        onnx.helper.make_node(
            "GroupNorm", inputs, ["gn"], name="gn", domain="com.microsoft", groups=3, activation=0, channels_last=1
        )
    )
    return b.node("Transpose", ["gn"], perm=[0, 3, 1, 2]), C


@case("LRN")
def lrn(b: Builder, x: str) -> tuple[str, int]:
    return b.node("LRN", [x], size=5, alpha=0.5), C


@case("LpNormalization", "MeanVarianceNormalization")
def normalised(b: Builder, x: str) -> tuple[str, int]:
    y = b.node("MeanVarianceNormalization", [x], axes=[0, 2, 3])
    y = b.node("MeanVarianceNormalization", [y], axes=[0, 1, 2, 3])
    return b.node("LpNormalization", [y], axis=1, p=2), C


@case("Softmax", "LogSoftmax", "Hardmax")
def softmax(b: Builder, x: str) -> tuple[str, int]:
    return b.node("Mul", [b.node("LogSoftmax", [x], axis=2), b.node("Softmax", [x], axis=-1)]), C


@case("AveragePool", "MaxPool", "LpPool")
def pools(b: Builder, x: str) -> tuple[str, int]:
    options = {"kernel_shape": [3, 3], "pads": [1] * 4}
    y = b.node("Add", [b.node("AveragePool", [x], **options), b.node("MaxPool", [x], **options)])
    return b.node("LpPool", [y], kernel_shape=[2, 2]), C


@case("GlobalAveragePool", "GlobalMaxPool", "GlobalLpPool")
def global_pools(b: Builder, x: str) -> tuple[str, int]:
    return b.node("Add", [b.node("GlobalAveragePool", [x]), b.node("GlobalMaxPool", [x])]), C


@case("Resize", "Upsample")
def resized(b: Builder, x: str) -> tuple[str, int]:
    y = b.node("Resize", [x, "", b.constant("scales", np.array([1, 1, 2, 2], np.float32))])
    return b.node("Resize", [y, "", "", ints(b, [1, C, 5, 7])]), C
