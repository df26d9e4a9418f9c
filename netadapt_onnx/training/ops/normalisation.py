"""Normalisations. BatchNormalization is torch's own, in training mode too, so its statistics move with the data."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from netadapt_onnx.training.ops.registry import Node, op

# Exporters write momenta from 0.9 to 0.9997; the slow ones would not follow a pruned network within an epoch.
BATCHNORM_MOMENTUM = 0.1


@op("BatchNormalization", training_aware=True)
def batch_normalization(
    node: Node, x: Tensor, scale: Tensor, bias: Tensor, mean: Tensor, variance: Tensor, *, training: bool
) -> Tensor:
    """Shapes: x (N, C, ...); the others (C,). In training mode `mean` and `variance` are updated in place."""
    # A single value per channel has no variance: torch raises there, so use what the graph knows.
    enough = x.numel() > x.shape[1]
    return F.batch_norm(
        x, mean, variance, scale, bias, training and enough, BATCHNORM_MOMENTUM, node.attribute("epsilon", 1e-5)
    )


@op("InstanceNormalization")
def instance_normalization(node: Node, x: Tensor, scale: Tensor, bias: Tensor) -> Tensor:
    """Shapes: x (N, C, *spatial); scale, bias (C,)."""
    axes = tuple(range(2, x.dim()))
    variance, mean = torch.var_mean(x, dim=axes, correction=0, keepdim=True)
    shape = (1, -1, *(1 for _ in axes))
    y = (x - mean) * torch.rsqrt(variance + node.attribute("epsilon", 1e-5))
    return y * scale.reshape(shape) + bias.reshape(shape)


@op("LayerNormalization")
def layer_normalization(node: Node, x: Tensor, scale: Tensor, bias: Tensor | None = None) -> Tensor:
    """Shapes: x (..., *normalised); scale, bias broadcast to the normalised axes."""
    shape = x.shape[node.attribute("axis", -1) % x.dim() :]
    epsilon = node.attribute("epsilon", 1e-5)
    if scale.shape == shape and (bias is None or bias.shape == shape):
        return F.layer_norm(x, shape, scale, bias, epsilon)
    y = F.layer_norm(x, shape, None, None, epsilon) * scale
    return y if bias is None else y + bias


@op("RMSNormalization", "SimplifiedLayerNormalization")
def rms_normalization(node: Node, x: Tensor, scale: Tensor) -> Tensor:
    """Shapes: x (..., *normalised); scale broadcasts to the normalised axes."""
    axes = tuple(range(node.attribute("axis", -1) % x.dim(), x.dim()))
    power = x.float().pow(2).mean(dim=axes, keepdim=True)
    return x * torch.rsqrt(power + node.attribute("epsilon", 1e-5)) * scale


@op("GroupNormalization")
def group_normalization(node: Node, x: Tensor, scale: Tensor, bias: Tensor) -> Tensor:
    """Shapes: x (N, C, *spatial); scale, bias (C,), or one per group before opset 21."""
    groups, epsilon = node.attribute("num_groups"), node.attribute("epsilon", 1e-5)
    repeats = x.shape[1] // scale.shape[0]
    return F.group_norm(x, groups, scale.repeat_interleave(repeats), bias.repeat_interleave(repeats), epsilon)


@op("LRN")
def lrn(node: Node, x: Tensor) -> Tensor:
    """Local response normalisation over channels. Shapes: x, y (N, C, *spatial)."""
    size = node.attribute("size")
    padded = F.pad(x.pow(2).transpose(1, -1), ((size - 1) // 2, size // 2))
    total: Tensor = padded.unfold(-1, size, 1).sum(-1).transpose(1, -1)
    factor = node.real("alpha", 1e-4) / size
    scale: Tensor = (factor * total + node.real("bias", 1.0)).pow(node.real("beta", 0.75))
    return x / scale


@op("LpNormalization")
def lp_normalization(node: Node, x: Tensor) -> Tensor:
    """Divide by the norm along one axis."""
    norm: Tensor = torch.linalg.vector_norm(x, node.attribute("p", 2), dim=node.attribute("axis", -1), keepdim=True)
    return x / norm.clamp_min(1e-12)


@op("MeanVarianceNormalization")
def mean_variance_normalization(node: Node, x: Tensor) -> Tensor:
    """Zero mean and unit variance over `axes`."""
    variance, mean = torch.var_mean(x, dim=tuple(node.attribute("axes", [0, 2, 3])), correction=0, keepdim=True)
    return (x - mean) / (variance.sqrt() + 1e-9)
