"""Indices into one axis are a Gather, however they are spelled."""

from __future__ import annotations

import numpy as np
import pytest

import models
from netadapt_onnx.surgery.criteria.selection import select
from netadapt_onnx.surgery.verify.prove import verify
from tracing import trace_model

SIZE = 6


@pytest.mark.parametrize("order", [np.arange(16).reshape(2, 8).T.reshape(-1), np.array([3, -1, 0, 7])])
def test_indices_into_one_axis_are_a_gather_however_they_are_spelled(order: np.ndarray) -> None:
    """Torch's dynamo exporter writes `x[:, order]` as Transpose, GatherND, Transpose."""
    b = models.Builder()
    x = b.node("Transpose", [b.conv("image", 3, 16)], perm=[1, 0, 2, 3])
    x = b.node("GatherND", [x, b.constant("order", order[:, None])])
    b.head(b.node("Transpose", [x], perm=[1, 0, 2, 3]), len(order))
    model_trace = trace_model(b.model({"image": ("N", 3, SIZE, SIZE)}, {"logits": ("N", 10)}))
    group = model_trace.group("conv1")
    assert group.prunable and group.step == 1
    assert verify(model_trace, select(model_trace, {"conv1": group.channels - 1}, "random")).exact
