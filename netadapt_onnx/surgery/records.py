"""What rules record about a model: layers, uses of constants, pins, and edits of nodes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from netadapt_onnx.graph.axis_arrays import Array
from netadapt_onnx.surgery.cut import Cut

if TYPE_CHECKING:
    import onnx_graphsurgeon as gs

# Labels of one tensor (`labels.py`).
Factors = tuple[Array, ...]
# Adjusts a node of a cut model; returns the nodes that it adds in front of it, if any.
Edit = Callable[[Cut, "gs.Node"], Sequence["gs.Node"] | None]


@dataclass(frozen=True)
class Use:
    """A constant as one input of one node.

    Attributes:
        constant: The name of the initializer.
        node: The number of the node in the flat graph.
        slot: The number of the input.
        factors: The labels of the axes that a cut slices.
        blocks: Labels (groups, n): axis 1 is sliced differently for each run of axis 0 (a convolution in groups); the
            first of them are those in `factors`. None where every row is sliced alike.
    """

    constant: str
    node: int
    slot: int
    factors: Factors
    blocks: Array | None = None


@dataclass(frozen=True)
class Layer:
    """A node that owns weights.

    Attributes:
        node: The number of the node in the flat graph.
        name: The node's name.
        op: The operator.
        channels: The labels of its output channels, (channels,).
        weight: The initializer that produces them.
        axis: The axis of `weight` along which it does.
        axis_labels: The labels along that axis.
    """

    node: int
    name: str
    op: str
    channels: Array
    weight: str
    axis: int
    axis_labels: Array


@dataclass(frozen=True)
class Pin:
    """Labels that must stay, and why."""

    labels: Array
    reason: str
