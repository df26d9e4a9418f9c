"""What becomes a constant, and what stays a view of a weight."""

from __future__ import annotations

import numpy as np
import onnx
from onnx import numpy_helper

import models
from netadapt_onnx.graph.fold_shapes import fold
from netadapt_onnx.graph.passes.pipeline import normalise


def folded_proto(proto: onnx.ModelProto) -> onnx.ModelProto:
    normalise(proto)
    return fold(proto).proto


def test_weights_made_by_constant_of_shape_become_initializers() -> None:
    b = models.Builder()
    shape = b.constant("shape", np.array([4, 3, 3, 3]))
    fill = numpy_helper.from_array(np.array([0.5], np.float32))
    b.node("Conv", ["image", b.node("ConstantOfShape", [shape], output="weight", value=fill)], "conv", output="y")
    folded = folded_proto(b.model({"image": (1, 3, 4, 4)}, {"y": (1, 4, 2, 2)}))
    assert [t.name for t in folded.graph.initializer] == ["weight"]


def test_transposed_weights_keep_their_initializer() -> None:
    b = models.Builder()
    moved = b.node("Transpose", [b.random("fc.weight", (5, 4))], perm=[1, 0])
    b.node("MatMul", ["x", moved], output="y")
    folded = folded_proto(b.model({"x": ("N", 4)}, {"y": ("N", 5)}))
    assert [t.name for t in folded.graph.initializer] == ["fc.weight"]
