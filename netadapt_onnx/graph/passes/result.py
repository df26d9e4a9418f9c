"""What every pass returns, and how passes run one after another."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Generic, TypeVar

M = TypeVar("M")


@dataclass(frozen=True)
class PassResult(Generic[M]):
    """What a pass makes of a model, and whether that differs from what it was given.

    Passes over an `onnx.ModelProto` edit it in place and return the same object. Passes over a `FoldedModel`, which is
    read-only, return another one where they change anything.
    """

    model: M
    changed: bool


Pass = Callable[[M], PassResult[M]]


def run_passes(model: M, passes: Iterable[Pass[M]]) -> PassResult[M]:
    """Run passes in order, each on what the one before it returns; `changed` if any of them changed anything."""
    changed = False
    for run_pass in passes:
        result = run_pass(model)
        model, changed = result.model, changed or result.changed
    return PassResult(model, changed)
