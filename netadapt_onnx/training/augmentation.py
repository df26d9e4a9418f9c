"""Images moved and mirrored at random, so that a network sees more of them than there are."""

from __future__ import annotations

import numpy as np

from netadapt_onnx.runtime import Arrays


def augmented(inputs: Arrays, rng: np.random.Generator) -> Arrays:
    """Images (N, C, H, W) shifted by up to an eighth of their size and mirrored; inputs of other ranks as they are."""
    return {name: _shift_and_mirror(v, rng) if v.ndim == 4 else v for name, v in inputs.items()}


def _shift_and_mirror(images: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    count, _, height, width = images.shape
    reach = max(1, min(height, width) // 8)
    padded = np.pad(images, ((0, 0), (0, 0), (reach, reach), (reach, reach)))
    made = np.empty_like(images)
    corners = np.asarray(rng.integers(0, 2 * reach + 1, (count, 2)))
    mirrored = np.asarray(rng.integers(0, 2, count))
    for i in range(count):
        top, left = int(corners[i, 0]), int(corners[i, 1])
        crop = padded[i, :, top : top + height, left : left + width]
        made[i] = crop[:, :, ::-1] if mirrored[i] else crop
    return made
