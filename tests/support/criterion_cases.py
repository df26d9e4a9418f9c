"""Images, and labels of them that a model mostly gets right."""

from __future__ import annotations

import numpy as np
import onnx

from netadapt_onnx.data.dataset import Split
from netadapt_onnx.graph.runtime import run, session


def images(n: int, size: int = 16) -> np.ndarray:
    return np.random.default_rng(1).standard_normal((n, 3, size, size)).astype(np.float32)


def labelled(proto: onnx.ModelProto, n: int, size: int = 16) -> Split:
    """Inputs with the model's own answers to disturbed ones as labels: mostly right, as in a trained model."""
    x = images(n, size)
    noisy = x + np.random.default_rng(2).standard_normal(x.shape).astype(np.float32) / 2
    return Split({"image": x}, logits(proto, noisy).argmax(1))


def logits(proto: onnx.ModelProto, x: np.ndarray) -> np.ndarray:
    return run(session(proto), {"image": x})["logits"]
