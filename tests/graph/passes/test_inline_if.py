"""Branches whose condition has one value take the place of their If."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

import models
from netadapt_onnx.graph.fold_shapes import fold
from netadapt_onnx.graph.passes.pipeline import normalise
from netadapt_onnx.graph.runtime import random_inputs, run, session


def branch(name: str, op: str) -> onnx.GraphProto:
    value = helper.make_tensor_value_info(f"{name}_y", TensorProto.FLOAT, None)
    return helper.make_graph([helper.make_node(op, ["x"], [f"{name}_y"], name=f"{name}_node")], name, [], [value])


@pytest.mark.parametrize("condition", [True, False])
def test_a_decided_if_is_inlined(condition: bool) -> None:
    b = models.Builder()
    x = b.conv("image", 3, 4, name="conv")
    b.nodes[-1].output[0] = "x"
    del x
    rank = b.node("Size", [b.node("Shape", ["x"])])
    decided = b.node("Equal", [rank, b.constant("four", np.array(4 if condition else 5))])
    b.node("If", [decided], "if", then_branch=branch("then", "Relu"), else_branch=branch("else", "Neg"), output="y")
    proto = b.model({"image": ("N", 3, 4, 4)}, {"y": ("N", 4, 4, 4)})
    normalise(proto)
    folded = fold(proto).proto
    assert [n.op_type for n in folded.graph.node][:2] == ["Conv", "Relu" if condition else "Neg"]
    inputs = random_inputs({"image": ((2, 3, 4, 4), np.dtype("f4"))})
    expected, actual = (run(session(model), inputs)["y"] for model in (proto, folded))
    np.testing.assert_allclose(actual, expected, atol=1e-6 * max(1.0, float(np.abs(expected).max())))
