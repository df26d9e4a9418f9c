"""A model that few execution providers run whole, and an order to measure it."""

from __future__ import annotations

import numpy as np
import onnx
from onnx import TensorProto, helper

from netadapt_onnx.profilers.device import Order
from netadapt_onnx.profilers.execution import CPU, Execution
from netadapt_onnx.profilers.records import Job


def two_nodes() -> onnx.ModelProto:
    """A Relu, and a Det that accelerators do not have."""
    nodes = [helper.make_node("Relu", ["x"], ["y"], name="relu"), helper.make_node("Det", ["y"], ["z"], name="det")]
    values = [("x", [1, 4, 4]), ("z", [1])]
    x, z = (helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in values)
    graph = helper.make_graph(nodes, "g", [x], [z])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)


def order_of(proto: onnx.ModelProto, execution: Execution = CPU) -> Order:
    """Measure this model once, in one session."""
    inputs = {"x": np.zeros([d.dim_value for d in proto.graph.input[0].type.tensor_type.shape.dim], np.float32)}
    return Order({0: proto}, inputs, execution, (Job((0,), None, False, 1, "each", 0.5, (1, 1), 1.0),))
