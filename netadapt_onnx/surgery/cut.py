"""What a cut keeps, as plain data: how often each channel is there afterwards, and all shapes before and after.

`Trace.cut` makes it. The edits of rules read it, `resize` builds the model from it, and the proof compares by it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from netadapt_onnx.graph.axis_arrays import Array
from netadapt_onnx.graph.shapes import Shape, Shapes

# Per group the channels that a model has after a cut, ascending. One that is repeated gets new channels beside it.
KeptIndices = Mapping[str, Array]
# For each labelled tensor the axes that a cut changes, each with the root label of every position along it.
AxesByTensor = Mapping[str, tuple[tuple[int, Array], ...]]


@dataclass(frozen=True, eq=False)
class Cut:
    """What one cut keeps of every tensor of the flat model.

    Attributes:
        copies: How often each root label is there after the cut, (labels,): 0 gone, 1 kept, n kept with n - 1 new
            channels beside it.
        original_shapes: Shape of every tensor before the cut.
        shapes: Shape of every tensor after the cut.
        axes: The axes that can be cut, with root labels (`Trace.axes`).
        run_axes: The same axes with labels that are equal over a run of positions that stay together
            (`Trace.run_axes`).
        opset: The version of ONNX's own operators in the model.
        batch_size: What a dynamic batch counted as when the shapes were inferred.
    """

    copies: Array
    original_shapes: Shapes
    shapes: Shapes
    axes: AxesByTensor
    run_axes: AxesByTensor
    opset: int
    batch_size: int

    @property
    def grows(self) -> bool:
        """Whether the model gets channels that it did not have."""
        return bool((self.copies > 1).any())

    def original_shape(self, name: str) -> Shape:
        """Shape of a tensor before the cut."""
        return self.original_shapes[name]

    def shape(self, name: str) -> Shape:
        """Shape of a tensor after the cut."""
        return self.shapes[name]

    def counts(self, name: str, axis: int) -> Array:
        """How often each position along one axis of a tensor is there after the cut, (positions,)."""
        counts = np.ones(self.original_shapes[name][axis], np.int64)
        for k, axis_labels in self.axes.get(name, ()):
            if k == axis:
                counts *= self.copies[axis_labels]
        return counts

    def kept(self, name: str, axis: int) -> NDArray[np.bool_]:
        """Mask (positions,) of what is kept along one axis of a tensor."""
        return self.counts(name, axis) > 0

    def shortened_axes(self, name: str) -> list[tuple[int, NDArray[np.bool_]]]:
        """The axes along which a tensor loses positions, each with the mask of those that are kept."""
        masks = ((axis, self.kept(name, axis)) for axis in sorted({axis for axis, _ in self.axes.get(name, ())}))
        return [(axis, mask) for axis, mask in masks if not mask.all()]

    def layout(self, name: str, axis: int) -> tuple[Array, Array]:
        """For each position along an axis after the cut: where it comes from, and which copy it is (0: itself)."""
        runs = [run for k, run in self.run_axes.get(name, ()) if k == axis]
        return arrange(self.counts(name, axis), runs)


def arrange(counts: Array, runs: Sequence[Array]) -> tuple[Array, Array]:
    """Repeat positions as often as `counts` says; runs of equal labels repeat as a whole.

    Args:
        counts: How often each position is there, (n,).
        runs: Labels (n,), any number of them; where one changes, a new run begins.

    Returns:
        The original position of each result, (sum of counts,), and the number of each copy, 0 for the first.
    """
    if counts.max(initial=0) <= 1:
        positions = np.flatnonzero(counts)
        return positions, np.zeros_like(positions)
    positions = np.repeat(np.arange(len(counts)), counts)
    copy = np.arange(len(positions)) - np.repeat(np.cumsum(counts) - counts, counts)
    starts = np.zeros(len(counts), bool)
    for run in runs:
        starts[1:] |= run[1:] != run[:-1]
    order = np.lexsort((positions, copy, np.cumsum(starts)[positions]))
    return positions[order], copy[order]
