"""Shapes of a model's outputs, and how messages write shapes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from itertools import permutations

from netadapt_onnx.graph.shapes import Shape

# Channels from the last axis to the second, and back: what axes are mixed up mostly.
_USUAL_ORDERS = ((3, 1, 2), (2, 3, 1))
# The shape of each output by name, samples first.
Outputs = Mapping[str, Shape]


def format_shape(shape: Iterable[int]) -> str:
    """A shape as messages write it.

    >>> format_shape((3, 224, 224)), format_shape(())
    ('3x224x224', '()')
    """
    return "x".join(map(str, shape)) or "()"


def layout_hint(name: str, shape: Shape, expected: Shape) -> str:
    """What to do about samples of another layout than the model takes; empty where reordering axes does not help.

    Args:
        name: What the samples are called.
        shape: Their shape, samples first.
        expected: The shape that the model takes, samples first; the first axis does not count.

    >>> layout_hint("x_train", (50000, 32, 32, 3), (1, 3, 32, 32))
    'transpose it: x_train.transpose(0, 3, 1, 2)'
    """
    own, target = tuple(shape[1:]), tuple(expected[1:])
    if len(own) + 1 == len(target) and target in ((1, *own), (*own, 1)):
        return (
            f"add the channel axis: {name}[:, None]" if target[0] == 1 else f"add the channel axis: {name}[..., None]"
        )
    if len(own) != len(target) or sorted(own) != sorted(target) or len(own) > 4:
        return ""
    usual = [order for order in _USUAL_ORDERS if len(order) == len(own)]
    orders = [*usual, *permutations(range(1, len(own) + 1))]
    fits = next(order for order in orders if tuple(own[axis - 1] for axis in order) == target)
    return f"transpose it: {name}.transpose({', '.join(map(str, (0, *fits)))})"


def format_outputs(outputs: Outputs) -> str:
    """Outputs as messages write them.

    >>> format_outputs({"logits": (1, 10)})
    "'logits' Nx10"
    """
    return ", ".join(f"'{name}' {'x'.join(['N', *map(str, shape[1:])])}" for name, shape in outputs.items())
