"""What training is tried on: networks, data that they can learn, settings that no clock chooses."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx

from models import Builder, plain
from netadapt_onnx.data.dataset import Dataset, Split
from netadapt_onnx.training.settings import Settings

FLOAT = Settings("float32", True, 1)


def split(count: int, seed: int) -> Split:
    """Ten fixed patterns under noise."""
    patterns = np.random.default_rng(0).standard_normal((10, 3, 8, 8))
    rng = np.random.default_rng(seed)
    y = rng.integers(0, 10, count)
    return Split({"image": (patterns[y] + 0.8 * rng.standard_normal((count, 3, 8, 8))).astype(np.float32)}, y)


def dataset(count: int = 320) -> Dataset:
    """So many samples of the ten patterns, and 100 more to validate on."""
    return Dataset(split(count, 1), split(100, 2))


def network(seed: int = 0) -> onnx.ModelProto:
    """Two convs for the ten patterns."""
    return plain((8, 8), size=8, seed=seed)


class KilledError(Exception):
    """Stands for the end of a process."""


def killed_at(step: int | None) -> Callable[[int, int, float], None]:
    """What follows a training's progress, and ends the process after a step; None: it never does."""

    def progress(done: int, total: int, loss: float) -> None:
        if done == step:
            raise KilledError

    return progress


def without_batchnorms(batch: int | str = "N") -> onnx.ModelProto:
    """A network whose export left no BatchNorm: biases, a depthwise conv, a residual, one conv without a bias."""
    b = Builder()
    x = b.relu(b.conv("image", 3, 16))
    y = b.relu(b.conv(x, 16, 16, group=16))
    y = b.conv(y, 16, 16, 1)
    x = b.relu(b.node("Add", [x, y]))
    x = b.relu(b.conv(x, 16, 24, bias=False))
    gate = b.node("Sigmoid", [b.conv(b.node("GlobalAveragePool", [x]), 24, 24, 1, name="gate")])
    b.head(b.node("Mul", [x, gate]), 24)
    return b.model({"image": (batch, 3, 16, 16)}, {"logits": (batch, 10)})
