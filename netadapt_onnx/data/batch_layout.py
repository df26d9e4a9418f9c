"""Where the outputs of a model hold the samples of a batch. Imports no torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

import numpy as np

from netadapt_onnx.graph.shapes import Shapes

# An array of numpy or a tensor of torch: both are reshaped and permuted alike.
Values = TypeVar("Values", bound=Any)


@dataclass(frozen=True)
class BatchAxis:
    """The axis of an output that holds the samples.

    Samples first, an output is (N, *the other axes), or (N, per_sample, *the other axes) with several entries a sample.

    Attributes:
        axis: Its number in the output as the model gives it.
        per_sample: Entries of the axis for each sample.
        interleaved: Whether those of a sample lie a batch apart (two models' outputs, one behind the other), and not
            side by side (boxes of all images in one list).
    """

    axis: int = 0
    per_sample: int = 1
    interleaved: bool = False

    def samples_first(self, values: Values) -> Values:
        """An output with samples along the first axis.

        Args:
            values: The output as the model gives it, an array of numpy or a tensor of torch.

        Raises:
            ValueError: The axis does not hold a whole number of samples.
        """
        shape = tuple(values.shape)
        if len(shape) <= self.axis or shape[self.axis] % self.per_sample:
            raise ValueError(shape)
        axis, first = self.axis, [self.axis]
        if self.per_sample > 1:
            count = shape[axis] // self.per_sample
            parts = (self.per_sample, count) if self.interleaved else (count, self.per_sample)
            values = values.reshape(*shape[:axis], *parts, *shape[axis + 1 :])
            first = [axis + self.interleaved, axis + (not self.interleaved)]
        return _permuted(values, [*first, *(k for k in range(len(values.shape)) if k not in first)])

    def as_put_out(self, values: Values) -> Values:
        """The inverse of `samples_first` where a sample has one entry of the axis; else `values` as they are."""
        if self.per_sample > 1:
            return values
        order = [*range(1, self.axis + 1), 0, *range(self.axis + 1, len(values.shape))]
        return _permuted(values, order)

    def samples_first_axis(self, axis: int) -> int | None:
        """The number of another axis of the output, samples first; None for the batch's own."""
        if axis == self.axis:
            return None
        return axis + (axis < self.axis) + (self.per_sample > 1)


@dataclass(frozen=True)
class Layout:
    """The outputs of a model that can be scored sample by sample.

    Attributes:
        outputs: Where each holds its samples, by name.
        omitted: Why each other output cannot be scored, by name.
        batch: The only batch size at which onnxruntime runs the model; None: it runs at any.
        shapes: Shapes of the outputs by name, samples first.
    """

    outputs: Mapping[str, BatchAxis] = field(default_factory=dict)
    omitted: Mapping[str, str] = field(default_factory=dict)
    batch: int | None = None
    shapes: Shapes = field(default_factory=dict)

    def samples_first(self, values: Mapping[str, Values]) -> dict[str, Values]:
        """The outputs that can be scored, each with samples along its first axis."""
        return {name: axis.samples_first(values[name]) for name, axis in self.outputs.items() if name in values}

    @property
    def notes(self) -> tuple[str, ...]:
        """A line for each output that is left out of accuracy and training."""
        return tuple(
            f"output '{name}' is left out of accuracy and training: {why}" for name, why in self.omitted.items()
        )


def samples_first(values: Mapping[str, Values], layout: Layout | None) -> dict[str, Values]:
    """The outputs that can be scored, each with samples along its first axis, as they are without a layout."""
    return dict(values) if layout is None else layout.samples_first(values)


def _permuted(values: Values, order: Sequence[int]) -> Values:
    if list(order) == list(range(len(order))):
        return values
    permuted: Values = values.transpose(order) if isinstance(values, np.ndarray) else values.permute(*order)
    return permuted
