"""Data sets that small models can learn, saved as a user would."""

from __future__ import annotations

from pathlib import Path

import numpy as np


def brightest_channel(
    path: Path, *, labelled: bool = True, train: int = 256, val: int = 96, test: int = 64, size: int = 8
) -> Path:
    """Save so many images a split, of three channels; the label is the channel that is brightest."""
    rng = np.random.default_rng(0)
    arrays: dict[str, np.ndarray] = {}
    for split, count in (("train", train), ("val", val), ("test", test)):
        if not count:
            continue
        labels = rng.integers(0, 3, count)
        images = rng.standard_normal((count, 3, size, size)).astype(np.float32)
        images[np.arange(count), labels] += 1
        arrays[f"x_{split}"] = images
        if labelled:
            arrays[f"y_{split}"] = labels
    np.savez(path, **arrays)  # type: ignore[arg-type]
    return path
