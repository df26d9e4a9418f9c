"""Elementwise arithmetic, comparison and logic with broadcasting."""

from __future__ import annotations

from collections.abc import Callable
from functools import reduce

import torch
from torch import Tensor

from netadapt_onnx.training.ops.registry import DTYPES, Node, op, register_unary


def _register_binary(name: str, function: Callable[[Tensor, Tensor], Tensor]) -> None:
    @op(name)
    def binary(node: Node, a: Tensor, b: Tensor) -> Tensor:
        return function(a, _old_broadcast(node, a, b))


def _register_variadic(name: str, function: Callable[[Tensor, Tensor], Tensor]) -> None:
    @op(name)
    def variadic(node: Node, *inputs: Tensor) -> Tensor:
        return reduce(function, inputs)


def _old_broadcast(node: Node, a: Tensor, b: Tensor) -> Tensor:
    """Before opset 7 `axis` says where b's axes lie among a's."""
    axis = node.attribute("axis")
    if axis is None or not node.attribute("broadcast", 0):
        return b
    return b.reshape(*b.shape, *(1 for _ in range(a.dim() - axis % a.dim() - b.dim())))


def _divide(a: Tensor, b: Tensor) -> Tensor:
    return a / b if a.is_floating_point() else torch.div(a, b, rounding_mode="trunc")


_UNARY: dict[str, Callable[[Tensor], Tensor]] = {
    "Neg": torch.neg, "Abs": torch.abs, "Exp": torch.exp, "Log": torch.log, "Sqrt": torch.sqrt,
    "Reciprocal": torch.reciprocal, "Floor": torch.floor, "Ceil": torch.ceil, "Round": torch.round,
    "Sign": torch.sign, "Erf": torch.erf, "Sin": torch.sin, "Cos": torch.cos, "Tan": torch.tan,
    "Asin": torch.asin, "Acos": torch.acos, "Atan": torch.atan, "Sinh": torch.sinh, "Cosh": torch.cosh,
    "Asinh": torch.asinh, "Acosh": torch.acosh, "Atanh": torch.atanh, "Not": torch.logical_not,
    "IsNaN": torch.isnan,
}  # fmt: skip
_BINARY: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "Add": torch.add, "Sub": torch.sub, "Mul": torch.mul, "Div": _divide, "Equal": torch.eq, "Less": torch.lt,
    "LessOrEqual": torch.le, "Greater": torch.gt, "GreaterOrEqual": torch.ge, "And": torch.logical_and,
    "Or": torch.logical_or, "Xor": torch.logical_xor, "BitwiseAnd": torch.bitwise_and, "BitwiseOr": torch.bitwise_or,
}  # fmt: skip
_VARIADIC: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "Sum": torch.add, "Min": torch.minimum, "Max": torch.maximum,
}  # fmt: skip
for _name, _function in _UNARY.items():
    register_unary(_name, _function)
for _name, _pairwise in _BINARY.items():
    _register_binary(_name, _pairwise)
for _name, _pairwise in _VARIADIC.items():
    _register_variadic(_name, _pairwise)


@op("Mean")
def mean(node: Node, *inputs: Tensor) -> Tensor:
    """The mean of several tensors."""
    return reduce(torch.add, inputs) / len(inputs)


@op("Pow")
def power(node: Node, a: Tensor, b: Tensor) -> Tensor:
    """The result has a's type."""
    exponent = node.constants.get(1)
    if exponent is not None and exponent.size == 1 and a.is_floating_point():
        return a.pow(float(exponent.reshape(-1)[0]))
    return torch.pow(a, b).to(a.dtype)


@op("Mod")
def mod(node: Node, a: Tensor, b: Tensor) -> Tensor:
    """The sign follows the divisor, or with `fmod` the dividend."""
    return torch.fmod(a, b) if node.attribute("fmod", 0) else torch.remainder(a, b)


@op("IsInf")
def is_inf(node: Node, x: Tensor) -> Tensor:
    """Infinities of the wanted signs."""
    positive = torch.isposinf(x) & bool(node.attribute("detect_positive", 1))
    return positive | (torch.isneginf(x) & bool(node.attribute("detect_negative", 1)))


@op("Where")
def where(node: Node, condition: Tensor, a: Tensor, b: Tensor) -> Tensor:
    """a where the condition holds, else b."""
    return torch.where(condition, a, b)


@op("Cast")
def cast(node: Node, x: Tensor) -> Tensor:
    """Half types stay float32: training runs in float32 and autocast decides what is narrower."""
    target = DTYPES.get(node.attribute("to"))
    if target is None:
        raise node.refuse(f"to the type {node.attribute('to')}")
    return x if target == torch.float32 and x.dtype == torch.bfloat16 else x.to(target)


@op("CastLike")
def cast_like(node: Node, x: Tensor, like: Tensor) -> Tensor:
    """x in the type of `like`."""
    return x.to(like.dtype)


@op("Identity")
def identity(node: Node, x: Tensor) -> Tensor:
    """x itself."""
    return x
