"""Activations: one input, the same shape out."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from netadapt_onnx.training.ops.registry import Node, op, register_unary


def _register_with_alpha(name: str, function: Callable[[Tensor, float], Tensor], alpha: float) -> None:
    @op(name)
    def with_alpha(node: Node, x: Tensor) -> Tensor:
        return function(x, node.attribute("alpha", alpha))


_PLAIN: dict[str, Callable[[Tensor], Tensor]] = {
    "Relu": F.relu, "Sigmoid": torch.sigmoid, "Tanh": torch.tanh, "HardSwish": F.hardswish, "Softplus": F.softplus,
    "Softsign": F.softsign, "Mish": F.mish,
}  # fmt: skip
# With the attribute's default.
_WITH_ALPHA: dict[str, tuple[Callable[[Tensor, float], Tensor], float]] = {
    "LeakyRelu": (F.leaky_relu, 0.01), "Elu": (F.elu, 1.0), "Celu": (F.celu, 1.0),
}  # fmt: skip
for _name, _function in _PLAIN.items():
    register_unary(_name, _function)
for _name, (_scaled, _alpha) in _WITH_ALPHA.items():
    _register_with_alpha(_name, _scaled, _alpha)


@op("PRelu")
def prelu(node: Node, x: Tensor, slope: Tensor) -> Tensor:
    """x, or slope * x below zero; the slope broadcasts to x from the right."""
    if slope.dim() > 1 and x.dim() > 1 and slope.numel() == x.shape[1] == slope.shape[-x.dim() + 1]:
        return F.prelu(x, slope.reshape(-1))
    return torch.where(x < 0, slope * x, x)


@op("HardSigmoid")
def hard_sigmoid(node: Node, x: Tensor) -> Tensor:
    """clip(alpha * x + beta, 0, 1)."""
    return (x * node.real("alpha", 0.2) + node.real("beta", 0.5)).clamp(0, 1)


@op("Swish")
def swish(node: Node, x: Tensor) -> Tensor:
    """x * sigmoid(alpha * x)."""
    return x * torch.sigmoid(x * node.attribute("alpha", 1.0))


@op("QuickGelu", domain="com.microsoft")
def quick_gelu(node: Node, x: Tensor) -> Tensor:
    """x * sigmoid(alpha * x)."""
    return x * torch.sigmoid(x * node.attribute("alpha", 1.702))


@op("Gelu")
def gelu(node: Node, x: Tensor) -> Tensor:
    """x times the normal distribution function, exact or by tanh."""
    return F.gelu(x, approximate=node.attribute("approximate", "none"))


@op("Gelu", domain="com.microsoft")
def gelu_microsoft(node: Node, x: Tensor) -> Tensor:
    """onnxruntime's exact Gelu."""
    return F.gelu(x)


@op("Selu")
def selu(node: Node, x: Tensor) -> Tensor:
    """A scaled Elu with the attributes' constants."""
    alpha, gamma = node.real("alpha", 1.6732632423543772), node.real("gamma", 1.0507009873554805)
    return gamma * F.elu(x, alpha)


@op("ThresholdedRelu")
def thresholded_relu(node: Node, x: Tensor) -> Tensor:
    """x above alpha, else 0."""
    return torch.where(x > node.attribute("alpha", 1.0), x, torch.zeros_like(x))


@op("Shrink")
def shrink(node: Node, x: Tensor) -> Tensor:
    """x pulled towards zero by `bias` outside of `lambd`, else 0."""
    limit, bias = node.attribute("lambd", 0.5), node.attribute("bias", 0.0)
    return torch.where(x < -limit, x + bias, torch.where(x > limit, x - bias, torch.zeros_like(x)))


@op("Softmax")
def softmax(node: Node, x: Tensor) -> Tensor:
    """Along one axis; before opset 13 along all axes from `axis` on."""
    if node.opset >= 13:
        return torch.softmax(x, node.attribute("axis", -1))
    axis = node.attribute("axis", 1) % x.dim()
    return torch.softmax(x.flatten(axis), axis).reshape(x.shape)


@op("LogSoftmax")
def log_softmax(node: Node, x: Tensor) -> Tensor:
    """The logarithm of Softmax."""
    if node.opset >= 13:
        return torch.log_softmax(x, node.attribute("axis", -1))
    axis = node.attribute("axis", 1) % x.dim()
    return torch.log_softmax(x.flatten(axis), axis).reshape(x.shape)


@op("Hardmax")
def hardmax(node: Node, x: Tensor) -> Tensor:
    """1 at the largest entry along an axis, else 0."""
    axis = node.attribute("axis", -1 if node.opset >= 13 else 1)
    return torch.zeros_like(x).scatter(axis, x.argmax(axis, keepdim=True), 1.0)


@op("Dropout")
def dropout(node: Node, x: Tensor, *rest: Tensor | None) -> Tensor | tuple[Tensor, ...]:
    """Identity, in training too: a network that has just lost capacity needs no further noise."""
    if len(node.outputs) > 1 and node.outputs[1]:
        return x, torch.ones_like(x, dtype=torch.bool)
    return x


@op("BiasGelu", domain="com.microsoft")
def bias_gelu(node: Node, x: Tensor, bias: Tensor) -> Tensor:
    """onnxruntime's fused addition and Gelu."""
    return F.gelu(x + bias)
