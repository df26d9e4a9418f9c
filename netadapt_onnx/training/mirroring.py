"""Pictures and their mirror images: where the original is about as accurate on both, its two outputs are averaged.

The mean of a network's outputs for a picture and for its mirror image is more accurate than either (test-time
augmentation; Krizhevsky et al., NeurIPS 2012, section 4.1), and costs a teacher that remembers its outputs one pass.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import onnx

from netadapt_onnx.data.dataset import LazyArray, LazyLabels, Split
from netadapt_onnx.data.evaluate import accuracy
from netadapt_onnx.training.augment import width_axis

# The original's accuracy on mirrored pictures, relative to that on the pictures as they are, and on how many. On 2,048
# samples of which a tenth change their class one standard error is 0.7 points.
LEAST, SAMPLES = 0.98, 2048


class _WithFlips:
    """Stored samples, and then all of them again: those with a width `axis` mirrored along it."""

    def __init__(self, values: LazyArray, axis: int | None) -> None:
        self._values = values
        self._axis = axis
        self.shape = (2 * len(values), *values.shape[1:])
        self.dtype: np.dtype[Any] = values.dtype

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, rows: np.ndarray | slice) -> np.ndarray:
        index = np.arange(len(self))[rows]
        count = len(self._values)
        samples = np.asarray(self._values[index % count])
        is_flipped = index >= count
        if self._axis is None or not is_flipped.any():
            return samples
        samples = samples.copy()
        samples[is_flipped] = np.flip(samples[is_flipped], self._axis)
        return samples


def with_flips(split: Split) -> Split:
    """The samples of a split, and then all of them again with their pictures mirrored; labels stay what they are."""
    stored = len(next(iter(split.inputs.values())))
    rows = np.arange(stored) if split.rows is None else split.rows
    labels: LazyLabels | None = None
    if isinstance(split.labels, Mapping):
        labels = {name: _WithFlips(values, None) for name, values in split.labels.items()}
    elif split.labels is not None:
        labels = _WithFlips(split.labels, None)
    inputs = {name: _WithFlips(values, width_axis(values.shape)) for name, values in split.inputs.items()}
    return replace(split, inputs=inputs, labels=labels, rows=np.concatenate([rows, rows + stored]))


def is_flip_invariant(proto: onnx.ModelProto, split: Split, seed: int = 0, threads: int = 1) -> bool:
    """Whether a classifier is about as accurate on mirrored pictures: on letters and digits it is not.

    False without labels of classes: maps and positions would have to be mirrored too.

    Args:
        proto: The model.
        split: Samples, of which at most 2,048 are drawn.
        seed: Draws them.
        threads: Of onnxruntime.
    """
    pictures = any(width_axis(values.shape) is not None for values in split.inputs.values())
    if split.metric != "top1" or not pictures or split.varies:
        return False
    plain = split.sample(SAMPLES, seed)
    mirrored = with_flips(plain).subset(slice(len(plain), None))
    flipped, unflipped = (accuracy(proto, one, threads=threads).value for one in (mirrored, plain))
    return flipped >= LEAST * unflipped
