"""Matrix products."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from netadapt_onnx.training.ops.registry import Node, op


@op("Gemm")
def gemm(node: Node, a: Tensor, b: Tensor, c: Tensor | None = None) -> Tensor:
    """Shapes: a (M, K) or, transposed, (K, M); b (K, N) or (N, K); c broadcasts to (M, N)."""
    alpha, beta = node.attribute("alpha", 1.0), node.attribute("beta", 1.0)
    a = a.t() if node.attribute("transA", 0) else a
    weight = b if node.attribute("transB", 0) else b.t()
    if alpha == 1.0 and (c is None or (beta == 1.0 and c.shape == (weight.shape[0],))):
        return F.linear(a, weight, c)
    y: Tensor = F.linear(a, weight) * alpha
    return y if c is None else y + c * beta


@op("MatMul")
def matmul(node: Node, a: Tensor, b: Tensor) -> Tensor:
    """numpy's matmul."""
    return torch.matmul(a, b)


@op("Einsum")
def einsum(node: Node, *operands: Tensor) -> Tensor:
    """ONNX and torch share the notation."""
    return torch.einsum(node.attribute("equation"), *operands)


@op("FusedMatMul", domain="com.microsoft")
def fused_matmul(node: Node, a: Tensor, b: Tensor) -> Tensor:
    """onnxruntime's MatMul with transposes and a factor."""
    a = a.transpose(-1, -2) if node.attribute("transA", 0) else a
    b = b.transpose(-1, -2) if node.attribute("transB", 0) else b
    return float(node.attribute("alpha", 1.0)) * torch.matmul(a, b)


@op("Attention")
def attention(node: Node, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None, *rest: Tensor | None) -> Tensor:
    """Scaled dot-product attention (ONNX opset 23). Shapes: (N, heads, L, d), or (N, L, heads * d) with head counts.

    Raises NetadaptError for caches, soft caps and further outputs.
    """
    if any(r is not None for r in rest) or len([o for o in node.outputs if o]) > 1 or node.attribute("softcap", 0.0):
        raise node.refuse("with a cache, a soft cap or further outputs")
    packed = q.dim() == 3
    if packed:
        q_heads, kv_heads = node.attribute("q_num_heads"), node.attribute("kv_num_heads")
        q = _split_heads(q, q_heads)
        k = _split_heads(k, kv_heads)
        v = _split_heads(v, kv_heads)
    y = F.scaled_dot_product_attention(
        q, k, v, mask, is_causal=bool(node.attribute("is_causal", 0)), scale=node.attribute("scale"),
        enable_gqa=q.shape[1] != k.shape[1],
    )  # fmt: skip
    return y.transpose(1, 2).flatten(2) if packed else y


def _split_heads(x: Tensor, heads: int) -> Tensor:
    """(N, L, heads * d) as (N, heads, L, d)."""
    return x.reshape(*x.shape[:2], heads, -1).transpose(1, 2)
