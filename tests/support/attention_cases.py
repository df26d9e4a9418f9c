"""Cases of fused attention and what goes with it; tokens are the pixels of conv1's output (see `rule_cases.py`)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx

from models import Builder
from rule_cases import CASES, OPSETS, C, S, case, flat, unflat

HEADS, DIM = 4, 6
T = S * S
OPSETS.update({"Attention": 23, "RotaryEmbedding": 23})


def fused(
    b: Builder, op: str, inputs: Sequence[str], outputs: Sequence[str], domain: str = "com.microsoft", **a: object
):  # type: ignore[no-untyped-def]
    b.nodes.append(onnx.helper.make_node(op, list(inputs), list(outputs), name=b.name(op.lower()), domain=domain, **a))
    return outputs[0]


def projected(b: Builder, x: str, name: str, width: int) -> str:
    return b.node("MatMul", [x, b.random(f"{name}.weight", (C, width), C)], name)


def split(b: Builder, x: str, heads: int, size: int) -> str:
    shape = b.constant(b.name("heads"), np.array([1, T, heads, size]))
    return b.node("Transpose", [b.node("Reshape", [x, shape])], perm=[0, 2, 1, 3])


@case("Attention")
def onnx_attention(b: Builder, x: str) -> tuple[str, int]:
    """Four dimensions with shared heads of keys; then three, a mask by head, and values of another size."""
    tokens = flat(b, x)
    q = split(b, projected(b, tokens, "q", HEADS * DIM), HEADS, DIM)
    k, v = (split(b, projected(b, tokens, n, 2 * DIM), 2, DIM) for n in ("k", "v"))
    mixed = fused(b, "Attention", [q, k, v], ["mixed"], "")
    joined = b.node("Transpose", [mixed], perm=[0, 2, 1, 3])
    joined = b.node("Reshape", [joined, b.constant("join", np.array([1, T, HEADS * DIM]))])
    y = b.node("MatMul", [joined, b.random("o", (HEADS * DIM, C), C)], "o")
    q, k, v = (projected(b, y, n, HEADS * size) for n, size in (("q2", DIM), ("k2", DIM), ("v2", 3)))
    mask = b.random("mask", (1, HEADS, T, T))
    out = fused(b, "Attention", [q, k, v, mask], ["mixed2"], "", q_num_heads=HEADS, kv_num_heads=HEADS, scale=0.3)
    return unflat(b, out, HEADS * 3), HEADS * 3


@case("MultiHeadAttention", domain="com.microsoft")
def multi_head_attention(b: Builder, x: str) -> tuple[str, int]:
    q, k, v = (projected(b, flat(b, x), n, HEADS * DIM) for n in "qkv")
    bias = b.random("bias", (3 * HEADS * DIM,))
    out = fused(b, "MultiHeadAttention", [q, k, v, bias], ["mixed"], num_heads=HEADS)
    return unflat(b, out, HEADS * DIM), HEADS * DIM


@case("GroupQueryAttention", domain="com.microsoft")
def group_query_attention(b: Builder, x: str) -> tuple[str, int]:
    q = projected(b, flat(b, x), "q", HEADS * 8)
    k, v = (projected(b, flat(b, x), n, 2 * 8) for n in "kv")
    lengths = [b.constant("last", np.array([T - 1], np.int32)), b.constant("total", np.array(T, np.int32))]
    out = fused(
        b,
        "GroupQueryAttention",
        [q, k, v, "", "", *lengths],
        ["mixed", "present_k", "present_v"],
        num_heads=HEADS,
        kv_num_heads=2,
    )
    return unflat(b, out, HEADS * 8), HEADS * 8


@case("Attention", domain="com.microsoft")
def projected_attention(b: Builder, x: str) -> tuple[str, int]:
    width = 3 * HEADS * DIM
    y = fused(
        b, "Attention", [flat(b, x), b.random("w", (C, width), C), b.random("b", (width,))], ["a"], num_heads=HEADS
    )
    return unflat(b, y, HEADS * DIM), HEADS * DIM


def rotary(domain: str):  # type: ignore[no-untyped-def]
    def add_case(b: Builder, x: str) -> tuple[str, int]:
        q = projected(b, flat(b, x), "q", HEADS * DIM)
        angles = b.rng.uniform(0, 6, (T, DIM // 2))
        cos, sin = (
            b.constant("cos", np.cos(angles).astype(np.float32)),
            b.constant("sin", np.sin(angles).astype(np.float32)),
        )
        positions = b.constant("positions", np.arange(T).reshape(1, T))
        order = [q, cos, sin, positions] if not domain else [q, positions, cos, sin]
        return unflat(
            b, fused(b, "RotaryEmbedding", order, ["turned"], domain, num_heads=HEADS), HEADS * DIM
        ), HEADS * DIM

    return add_case


for _domain in ("", "com.microsoft"):
    CASES[_domain, "RotaryEmbedding"] = rotary(_domain)


@case("SkipLayerNormalization", "SkipSimplifiedLayerNormalization", domain="com.microsoft")
def skip_layer_norms(b: Builder, x: str) -> tuple[str, int]:
    a, c = flat(b, x), flat(b, b.conv("x", 3, C, 1))
    y = fused(b, "SkipLayerNormalization", [a, c, *(b.random(n, (C,)) for n in "gbh")], ["n1", "", "", "sum"])
    z = fused(b, "SkipSimplifiedLayerNormalization", ["sum", y, b.random("g2", (C,))], ["n2"])
    return unflat(b, z, C), C


@case("EmbedLayerNormalization", domain="com.microsoft")
def embed_layer_norm(b: Builder, x: str) -> tuple[str, int]:
    words = b.node("Cast", [b.node("Greater", ["x", b.constant("zero", np.float32(0))])], to=onnx.TensorProto.INT32)
    first = b.node("Slice", [words, *(b.constant(n, np.array([v])) for n, v in (("s", 0), ("e", 1), ("a", 1)))])
    ids = b.node("Reshape", [first, b.constant("row", np.array([1, T]))])
    tables = [b.random("words", (2, C)), b.random("places", (T, C)), b.random("kinds", (2, C))]
    scale = [b.random("gamma", (C,)), b.random("beta", (C,))]
    y = fused(b, "EmbedLayerNormalization", [ids, ids, *tables, *scale], ["embedded", "lengths"])
    return b.node("Add", [unflat(b, y, C), x]), C


@case("BiasGelu", "FastGelu", domain="com.microsoft")
def gelus(b: Builder, x: str) -> tuple[str, int]:
    y = fused(b, "BiasGelu", [flat(b, x), b.random("b1", (C,))], ["gelu1"])
    return unflat(b, fused(b, "FastGelu", [y, b.random("b2", (C,))], ["gelu2"]), C), C


@case("FusedConv", domain="com.microsoft")
def fused_conv(b: Builder, x: str) -> tuple[str, int]:
    inputs = [x, b.random("fw", (7, C, 1, 1), C), b.random("fb", (7,)), b.conv("x", 3, 7, 1)]
    return fused(b, "FusedConv", inputs, ["fused"], activation="Relu"), 7


@case("FusedGemm", domain="com.microsoft")
def fused_gemm(b: Builder, x: str) -> tuple[str, int]:
    rows = b.node("Reshape", [flat(b, x), b.constant("rows", np.array([T, C]))])
    y = fused(b, "FusedGemm", [rows, b.random("gw", (C, 5), C), b.random("gb", (5,))], ["fused"], activation="Relu")
    return unflat(b, b.node("Unsqueeze", [y, b.constant("batch", np.array([0]))]), 5), 5
