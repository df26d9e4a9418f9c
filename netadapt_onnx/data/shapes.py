"""Shapes of a model's outputs, and how messages write shapes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from netadapt_onnx.graph.shapes import Shape

# The shape of each output by name, samples first.
Outputs = Mapping[str, Shape]


def format_shape(shape: Iterable[int]) -> str:
    """A shape as messages write it.

    >>> format_shape((3, 224, 224)), format_shape(())
    ('3x224x224', '()')
    """
    return "x".join(map(str, shape)) or "()"


def format_outputs(outputs: Outputs) -> str:
    """Outputs as messages write them.

    >>> format_outputs({"logits": (1, 10)})
    "'logits' Nx10"
    """
    return ", ".join(f"'{name}' {'x'.join(['N', *map(str, shape[1:])])}" for name, shape in outputs.items())
