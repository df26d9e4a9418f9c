"""Augmentation: pictures are shifted and mirrored at random, so that a network sees more of them than there are."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from netadapt_onnx.data.dataset import Labels
from netadapt_onnx.data.tasks import UNLABELLED
from netadapt_onnx.errors import NetadaptError, invalid_data
from netadapt_onnx.graph.runtime import Arrays

_CHANNELS = (1, 3, 4)


def width_axis(shape: tuple[int, ...]) -> int | None:
    """The axis of a batch that runs along the width of its pictures; None if it holds no pictures.

    Pictures are (N, C, H, W), or (N, H, W, C) with 1, 3 or 4 channels.
    """
    if len(shape) != 4:
        return None
    return 2 if shape[1] not in _CHANNELS and shape[3] in _CHANNELS else 3


def augmented(inputs: Arrays, labels: Labels | None, rng: np.random.Generator) -> tuple[Arrays, Labels | None]:
    """Shift pictures by up to an eighth of their size and mirror half of them; inputs of other ranks stay as they are.

    Maps of class numbers (N, H, W) move along; what comes in at the border counts as unlabelled.

    Args:
        inputs: Samples, (N, ...) by name.
        labels: Their labels, (N, ...).
        rng: Draws the shifts.

    Returns:
        The inputs and the labels, with the same shapes.

    Raises:
        NetadaptError: Labels are maps of values, or no input holds pictures.
    """
    pictures = {name: values for name, values in inputs.items() if width_axis(values.shape) is not None}
    if not pictures:
        shapes = ", ".join(f"'{name}' Nx{'x'.join(map(str, values.shape[1:]))}" for name, values in inputs.items())
        raise invalid_data(f"no input is a picture to shift and mirror: {shapes}", "leave --augment out")
    count = len(next(iter(pictures.values())))
    moves, mirrored = rng.random((count, 2)), np.asarray(rng.integers(0, 2, count))
    augmented_pictures = {name: _move(values, moves, mirrored, 0) for name, values in pictures.items()}
    return inputs | augmented_pictures, _move_labels(labels, moves, mirrored)


def _move_labels(labels: Labels | None, moves: np.ndarray, mirrored: np.ndarray) -> Labels | None:
    if isinstance(labels, Mapping):
        return {name: _move_map(values, moves, mirrored) for name, values in labels.items()}
    return None if labels is None else _move_map(labels, moves, mirrored)


def _move_map(labels: np.ndarray, moves: np.ndarray, mirrored: np.ndarray) -> np.ndarray:
    if labels.ndim < 3:
        return labels
    if labels.ndim > 3 or labels.dtype.kind == "f":
        raise NetadaptError("augmentation cannot move labels that are maps of values", hint="leave --augment out")
    return _move(labels[:, None], moves, mirrored, UNLABELLED)[:, 0]


def _move(images: np.ndarray, moves: np.ndarray, mirrored: np.ndarray, border: int) -> np.ndarray:
    """Each image shifted within its padding by its `moves` in [0, 1), and mirrored where `mirrored` is 1."""
    channels_last = width_axis(images.shape) == 2
    if channels_last:
        images = np.moveaxis(images, -1, 1)
    _, _, height, width = images.shape
    reach = max(1, min(height, width) // 8)
    padded = np.pad(images, ((0, 0), (0, 0), (reach, reach), (reach, reach)), constant_values=border)
    moved = np.empty_like(images)
    corners = (moves * (2 * reach + 1)).astype(int)
    for i, (y, x) in enumerate(corners):
        crop = padded[i, :, y : y + height, x : x + width]
        moved[i] = crop[:, :, ::-1] if mirrored[i] else crop
    return np.ascontiguousarray(np.moveaxis(moved, 1, -1)) if channels_last else moved
