"""Small networks whose filters have gates, with samples for them."""

from __future__ import annotations

import numpy as np

import models
from netadapt_onnx.data.dataset import Dataset, Split
from netadapt_onnx.surgery.trace import Trace

NETWORKS = {
    "plain": models.plain((8, 12, 16), size=8),
    "residual": models.residual(8, size=8),
    "grouped": models.grouped(8, size=8),
    "concatenated": models.concatenated(size=8),
    "fully_connected": models.fully_connected(size=8),
}


def samples_for(original: Trace, samples: int = 96) -> Dataset:
    """Random images and labels for a network."""
    rng = np.random.default_rng(0)
    name, (shape, _) = next(iter(original.folded.specs.items()))
    x = rng.normal(0, 1, (samples, *shape[1:])).astype(np.float32)
    split = Split({name: x}, rng.integers(0, 10, samples))
    return Dataset(split, split)
