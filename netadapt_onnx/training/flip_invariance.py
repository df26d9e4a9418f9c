"""Whether a classifier knows mirror images: pictures are shown both ways then.

Where the original is about as accurate on pictures and on their mirror images, the mean of its two outputs is more
accurate than either (test-time augmentation; Krizhevsky et al., NeurIPS 2012, section 4.1).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import onnx

from netadapt_onnx.data.dataset import LazyArray, Split
from netadapt_onnx.data.evaluate import accuracy, outputs
from netadapt_onnx.data.tasks import class_output
from netadapt_onnx.training.augment import width_axis

# The original's accuracy on mirrored pictures, relative to that on the pictures as they are, and on how many. On 2,048
# samples of which a tenth change their class one standard error is 0.7 points.
LEAST, SAMPLES = 0.98, 2048
# Without labels: the share of mirrored pictures whose class must stay. An EfficientNet-Lite0 that is right in four of
# five cases agrees with itself in nine of ten; letters and digits do not.
LEAST_AGREEMENT = 0.8


@dataclass(frozen=True)
class _Mirrored:
    """Stored pictures, flipped along their axis of width."""

    values: LazyArray
    axis: int

    @property
    def shape(self) -> tuple[int, ...]:
        """As stored."""
        return self.values.shape

    @property
    def dtype(self) -> np.dtype[Any]:
        """As stored."""
        return self.values.dtype

    def __len__(self) -> int:
        return len(self.values)

    def __getitem__(self, rows: np.ndarray | slice) -> np.ndarray:
        return np.ascontiguousarray(np.flip(np.asarray(self.values[rows]), self.axis))


def mirrored(split: Split) -> Split:
    """The same samples with their pictures mirrored; labels stay what they are."""
    axes = {name: width_axis(tuple(values.shape)) for name, values in split.inputs.items()}
    inputs = {
        name: values if (axis := axes[name]) is None else _Mirrored(values, axis)
        for name, values in split.inputs.items()
    }
    return replace(split, inputs=inputs)


def is_flip_invariant(proto: onnx.ModelProto, split: Split, seed: int = 0, threads: int = 1) -> bool:
    """Whether a classifier is about as accurate on mirrored pictures: on letters and digits it is not.

    Without labels it must give four of five mirrored pictures their class. False where outputs are no classes: maps and
    positions would have to be mirrored too.

    Args:
        proto: The model.
        split: Samples, of which at most 2,048 are drawn.
        seed: Draws them.
        threads: Of onnxruntime.
    """
    if split.varies or all(width_axis(tuple(values.shape)) is None for values in split.inputs.values()):
        return False
    plain = split.sample(SAMPLES, seed)
    if split.metric == "top1":
        flipped, unflipped = (accuracy(proto, one, threads=threads).value for one in (mirrored(plain), plain))
        return flipped >= LEAST * unflipped
    if split.metric != "agreement" or not len(plain):
        return False
    answers = outputs(proto, plain, threads=threads)
    if class_output({name: value.shape for name, value in answers.items()}) is None:
        return False
    return accuracy(proto, mirrored(plain), reference=answers, threads=threads).value >= LEAST_AGREEMENT
