"""Initial weights by kind of layer."""

from __future__ import annotations

import numpy as np
from onnx import numpy_helper

from models import Builder
from netadapt_onnx.training.initialise import initialised


def test_a_scale_behind_a_view_starts_at_one() -> None:
    b = Builder()
    drawn = np.linspace(2, 3, 8).astype(np.float32)
    scale, shift = (b.constant(name, drawn) for name in ("scale", "shift"))
    axes = b.constant("axes", np.array([1, 2], np.int64))
    scaled = b.node("Mul", [b.conv("image", 3, 8), b.node("Unsqueeze", [scale, axes])])
    scaled = b.node("Add", [scaled, b.node("Unsqueeze", [shift, axes])])
    b.node("Relu", [scaled], output="y")
    proto = b.model({"image": ("N", 3, 8, 8)}, {"y": ("N", 8, 8, 8)})
    values = {t.name: numpy_helper.to_array(t) for t in initialised(proto, 0).graph.initializer}
    assert (values["scale"] == 1).all()
    assert (values["shift"] == 0).all()
