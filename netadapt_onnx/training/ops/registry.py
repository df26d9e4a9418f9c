"""The registry of ONNX ops as torch functions: `@op("Conv")` on a small function is all that a new op needs."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
import torch
from torch import Tensor

from netadapt_onnx.errors import NetadaptError

Function = Callable[..., Tensor | tuple[Tensor, ...]]
# Functions by domain and name, and whether each receives the training mode.
Registered = Mapping[tuple[str, str], tuple[Function, bool]]

_FUNCTIONS: dict[tuple[str, str], Function] = {}
_TRAINING_AWARE: set[tuple[str, str]] = set()
_DOMAINS = {"": "", "ai.onnx": ""}

# Half and bfloat16 models train in float32: their weights are upcast and rounded again on write-back.
DTYPES: dict[int, torch.dtype] = {
    onnx.TensorProto.FLOAT: torch.float32,
    onnx.TensorProto.FLOAT16: torch.float32,
    onnx.TensorProto.BFLOAT16: torch.float32,
    onnx.TensorProto.DOUBLE: torch.float64,
    onnx.TensorProto.INT8: torch.int8,
    onnx.TensorProto.INT16: torch.int16,
    onnx.TensorProto.INT32: torch.int32,
    onnx.TensorProto.INT64: torch.int64,
    onnx.TensorProto.UINT8: torch.uint8,
    onnx.TensorProto.BOOL: torch.bool,
}


@dataclass(frozen=True)
class Node:
    """A node as its operator's function sees it: attributes, opset, and constant inputs by their number."""

    op: str
    name: str
    opset: int
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    domain: str = ""
    attributes: Mapping[str, Any] = field(default_factory=dict)
    constants: Mapping[int, np.ndarray] = field(default_factory=dict)

    def attribute(self, name: str, default: Any = None) -> Any:
        """The attribute's Python value (strings decoded), or `default`."""
        return self.attributes.get(name, default)

    def real(self, name: str, default: float) -> float:
        """A float attribute."""
        return float(self.attributes.get(name, default))

    def integers(self, position: int, value: Tensor | None) -> list[int] | None:
        """Input `position` as a list of ints; None when the input is absent. Fixed values cost no tensor access."""
        if position in self.constants:
            return [int(v) for v in self.constants[position].reshape(-1)]
        return None if value is None else [int(v) for v in value.reshape(-1).tolist()]

    def number(self, position: int, value: Tensor | None, default: float) -> float:
        """Input `position` as one Python float; `default` when absent or empty."""
        if position in self.constants:
            flat = self.constants[position].reshape(-1)
            return float(flat[0]) if flat.size else default
        return float(value.reshape(-1)[0]) if value is not None and value.numel() else default

    def numbers(self, position: int, value: Tensor) -> list[float]:
        """Input `position` as a list of floats."""
        flat = self.constants[position].reshape(-1) if position in self.constants else value.reshape(-1).tolist()
        return [float(v) for v in flat]

    def refuse(self, what: str) -> NetadaptError:
        """The error for a use of a known op that training does not cover."""
        return NetadaptError(f"training does not support {self.op} {what}", node=self.name, code="unsupported")


def op(*names: str, domain: str = "", training_aware: bool = False) -> Callable[[Function], Function]:
    """Register a function for ONNX ops. It is called as f(node, *inputs); absent optional inputs are None.

    A `training_aware` function also receives `training=True|False`.
    """

    def register(function: Function) -> Function:
        for name in names:
            if (domain, name) in _FUNCTIONS:
                raise ValueError(f"{name} is registered twice")
            _FUNCTIONS[domain, name] = function
            if training_aware:
                _TRAINING_AWARE.add((domain, name))
        return function

    return register


def register_unary(name: str, function: Callable[[Tensor], Tensor]) -> None:
    """Register a function of one tensor, which needs no attribute, for an ONNX op."""

    @op(name)
    def unary(node: Node, x: Tensor) -> Tensor:
        return function(x)


def lookup(domain: str, name: str) -> Function | None:
    """The function of an op, or None."""
    return _FUNCTIONS.get((_DOMAINS.get(domain, domain), name))


def is_training_aware(domain: str, name: str) -> bool:
    """Whether the op's function receives the training mode."""
    return (_DOMAINS.get(domain, domain), name) in _TRAINING_AWARE


def registered() -> list[str]:
    """Names of all ops that have a function, sorted; domains other than ONNX's own in front, as `domain::Op`."""
    return sorted(f"{domain}::{name}" if domain else name for domain, name in _FUNCTIONS)


def registered_outside() -> Registered:
    """The functions that other packages have registered."""
    package = __name__.partition(".")[0]
    return {
        key: (function, key in _TRAINING_AWARE)
        for key, function in _FUNCTIONS.items()
        if function.__module__.partition(".")[0] != package
    }


def register_all(functions: Registered) -> None:
    """Register what `registered_outside` returned in another process."""
    for key, (function, training_aware) in functions.items():
        _FUNCTIONS[key] = function
        if training_aware:
            _TRAINING_AWARE.add(key)
