"""Views of pictures: a fixed number of shifted, mirrored or cropped versions of each, drawn once by the seed.

An augmentation that is drawn anew at every step has the original answer anew at every step. A few views of each picture
teach about as much, and what the original says of them is computed once. The first view, or the first pair, is the
picture as it is; where pictures may be mirrored, views come in pairs, one the mirror image of the other.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from netadapt_onnx.data.dataset import LazyArray, LazyLabels, Split
from netadapt_onnx.training.augment import width_axis

# More views are no use to a few hundred steps.
MOST = 16
# Pictures that are shown more often than so many times are cropped too: a ResNet-20 that saw 18,000 pictures six times
# came to 86.4% with their mirror images alone, and to 86.0% with shifted ones as well.
SHOWN_OFTEN, FEWEST_CROPS = 8, 4
# Smaller inputs, and those with other numbers of channels, are no pictures.
SMALLEST_SIDE, CHANNELS = 16, (1, 3, 4)
# A crop has at least so much of the area of its picture, and sides that differ in scale by up to so much.
LEAST_AREA, MOST_STRETCH = 0.5, 1.2


@dataclass(frozen=True)
class Views:
    """The views that a training shows.

    Attributes:
        count: Views of each picture; 1: as it is.
        flips: Whether every other view is the mirror image of the one before.
        crops: Whether all but the first view (the first pair) are crops, brought to the size of the picture.
        pairs_agree: Whether the original's answers to a picture and to its mirror image are averaged.
    """

    count: int = 1
    flips: bool = False
    crops: bool = False
    pairs_agree: bool = False

    def within(self, most: int) -> Views:
        """As many views as there is memory for, in whole pairs."""
        count = min(self.count, max(1, most))
        if self.flips and count < self.count:
            count -= count % 2
        return self if count == self.count else replace(self, count=count) if count > 1 else Views()


def automatic_views(split: Split, passes: float, *, flips: bool, pairs_agree: bool, always: bool = False) -> Views:
    """The views that pay: as many as each picture is shown times, up to 16, cropped where that is often.

    Args:
        split: The training samples.
        passes: How often each of them is shown.
        flips: Whether the original knows mirror images.
        pairs_agree: See `Views`.
        always: Whether pictures are cropped however rarely they are shown.
    """
    if not shows_pictures(split):
        return Views()
    crops = always or passes > SHOWN_OFTEN
    count = min(MOST, max(FEWEST_CROPS, int(passes))) if crops else 2 if flips else 1
    count += count % 2 if flips else 0
    return Views(count, flips, crops, pairs_agree and flips)


def shows_pictures(split: Split) -> bool:
    """Whether views can be drawn: there are pictures, and no labels or outputs that would have to move along."""
    labels = [] if split.labels is None else list(_labels(split.labels).values())
    has_pictures = any(_is_picture(values) for values in split.inputs.values())
    return has_pictures and not split.varies and all(len(values.shape) == 1 for values in labels)


def _labels(labels: LazyLabels) -> Mapping[str, LazyArray]:
    return labels if isinstance(labels, Mapping) else {"": labels}


def _is_picture(values: LazyArray) -> bool:
    shape = values.shape
    axis = width_axis(tuple(shape))
    if axis is None or values.dtype.kind not in "uf":
        return False
    height, width, channels = (shape[1], shape[2], shape[3]) if axis == 2 else (shape[2], shape[3], shape[1])
    return channels in CHANNELS and min(height, width) >= SMALLEST_SIDE


def with_views(split: Split, views: Views, seed: int) -> Split:
    """All views of the samples of a split, view after view; labels stay what they are.

    Args:
        split: The samples.
        views: Their views.
        seed: Draws them.
    """
    if views.count == 1:
        return split
    stored = len(next(iter(split.inputs.values())))
    rows = np.arange(stored) if split.rows is None else split.rows
    labels: LazyLabels | None = None
    if isinstance(split.labels, Mapping):
        labels = {name: _Repeated(values, views.count) for name, values in split.labels.items()}
    elif split.labels is not None:
        labels = _Repeated(split.labels, views.count)
    inputs = {
        name: _Repeated(values, views.count)
        if width_axis(tuple(values.shape)) is None
        else _Viewed(values, views.count, views, seed)
        for name, values in split.inputs.items()
    }
    rows = np.concatenate([rows + view * stored for view in range(views.count)])
    return replace(split, inputs=inputs, labels=labels, rows=rows)


@dataclass(frozen=True)
class _Repeated:
    """Stored values, so many times one behind the other."""

    values: LazyArray
    count: int

    @property
    def shape(self) -> tuple[int, ...]:
        """All of them."""
        return (self.count * len(self.values), *self.values.shape[1:])

    @property
    def dtype(self) -> np.dtype[Any]:
        """As stored."""
        return self.values.dtype

    def __len__(self) -> int:
        return self.count * len(self.values)

    def __getitem__(self, rows: np.ndarray | slice) -> np.ndarray:
        return np.asarray(self.values[np.arange(len(self))[rows] % len(self.values)])


@dataclass(frozen=True)
class _Viewed(_Repeated):
    """Pictures, (N, C, H, W) or (N, H, W, C), in all of their views."""

    views: Views = field(default_factory=Views)
    seed: int = 0

    def __getitem__(self, rows: np.ndarray | slice) -> np.ndarray:
        index = np.arange(len(self))[rows]
        pictures = super().__getitem__(index).copy()
        is_last = width_axis(pictures.shape) == 2
        planes = np.moveaxis(pictures, -1, 1) if is_last else pictures
        for position, row in enumerate(index.tolist()):
            view, picture = divmod(row, len(self.values))
            planes[position] = self._view(planes[position], picture, view)
        return pictures

    def _view(self, picture: np.ndarray, number: int, view: int) -> np.ndarray:
        """One view of one picture, (C, H, W): a function of the seed and their numbers."""
        pair = view // 2 if self.views.flips else view
        rng = np.random.default_rng([self.seed, number, pair])
        if self.views.flips and (rng.random() < 0.5) != (view % 2 == 1):
            picture = picture[:, :, ::-1]
        return _cropped(picture, rng) if self.views.crops and pair else picture


def _cropped(picture: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """A random part of a picture, (C, H, W), brought to its size by linear interpolation."""
    _, height, width = picture.shape
    scale = np.sqrt(rng.uniform(LEAST_AREA, 1.0))
    stretch = np.exp(rng.uniform(-0.5, 0.5) * np.log(MOST_STRETCH))
    sides = min(1.0, scale * stretch) * height, min(1.0, scale / stretch) * width
    corner = rng.random(2) * (np.array([height, width]) - sides)
    values = picture.astype(np.float32)
    for axis, (first, length, size) in enumerate(zip(corner, sides, (height, width), strict=True), 1):
        values = _resampled(values, axis, first + (np.arange(size) + 0.5) * length / size - 0.5)
    return np.rint(values).astype(picture.dtype) if picture.dtype.kind == "u" else values.astype(picture.dtype)


def _resampled(values: np.ndarray, axis: int, positions: np.ndarray) -> np.ndarray:
    """Values at fractional positions along an axis, between their two neighbours."""
    positions = positions.clip(0, values.shape[axis] - 1)
    below = np.floor(positions).astype(np.int64)
    above = np.minimum(below + 1, values.shape[axis] - 1)
    shape = [1] * values.ndim
    shape[axis] = -1
    share = (positions - below).astype(np.float32).reshape(shape)
    between: np.ndarray = np.take(values, below, axis) * (1 - share) + np.take(values, above, axis) * share
    return between
