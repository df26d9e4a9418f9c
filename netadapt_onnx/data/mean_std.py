"""Mean and standard deviation per channel, as a model's input needs them."""

from __future__ import annotations

from typing import Any

import numpy as np

from netadapt_onnx.data.dataset import Scaling
from netadapt_onnx.data.labels import shown
from netadapt_onnx.errors import NetadaptError


def scaling_of(mean: np.ndarray, std: np.ndarray, name: str, shape: tuple[int, ...], dtype: np.dtype[Any]) -> Scaling:
    """Both brought to the channel axis of the input `name`: the first of a sample (NCHW), else the last (NHWC).

    Raises NetadaptError for another number of channels, and for values that cannot be.
    """
    made = []
    for what, values in (("mean", mean), ("std", std)):
        if values.dtype.kind not in "iuf":
            raise _invalid(f"{what} has type {values.dtype}: it must hold numbers")
        flat = np.asarray(values, np.float32).reshape(-1)
        if not np.isfinite(flat).all() or (what == "std" and (flat <= 0).any()):
            raise _invalid(f"{what} holds {flat.tolist()}: it must be finite, and std positive")
        sample = shape[1:]
        if flat.size == 1:
            made.append(flat.reshape((1,) * len(sample)))
        elif sample and flat.size == sample[0]:
            made.append(flat.reshape(-1, *(1 for _ in sample[1:])))
        elif sample and flat.size == sample[-1]:
            made.append(flat.reshape(*(1 for _ in sample[1:]), -1))
        else:
            raise _invalid(f"{what} has {flat.size} values, but the model's input '{name}' takes Nx{shown(sample)}")
    return Scaling(made[0], made[1], dtype)


def _invalid(message: str) -> NetadaptError:
    return NetadaptError(message, code="invalid-data")
