"""The models that mutants are made of, and one of what builders do not write."""

from __future__ import annotations

import functools
import os
from pathlib import Path

import onnx
from onnx import helper, numpy_helper

import control_cases
import models
import quantised_cases
import rule_cases

OPERATORS = ("Slice", "Split", "Einsum", "LSTM", "Reshape", "Expand", "ConstantOfShape", "Pad", "Resize", "Gather")
OPERATORS += ("Tile", "Concat", "GroupNormalization", "If", "Loop", "Scan", "QLinearConv", "TopK", "ConvTranspose")


@functools.cache
def sources() -> tuple[onnx.ModelProto, ...]:
    """Small models: most of their bytes are structure and not weights. `NETADAPT_FUZZ_MODELS` is a folder of others."""
    if folder := os.environ.get("NETADAPT_FUZZ_MODELS"):
        return tuple(onnx.load(file) for file in sorted(Path(folder).rglob("*.onnx")))
    assert control_cases and quantised_cases  # importing them registers their cases
    return (
        models.plain((3, 4), size=4),
        models.residual(3, size=4),
        models.grouped(4, size=4, groups=2),
        models.concatenated(2, size=4),
        models.transposed(2, size=4),
        models.fully_connected(2, size=4, hidden=4),
        models.channels_last(3, size=4),
        _unusual(),
        *(rule_cases.build("", op) for op in OPERATORS),
    )


def _unusual() -> onnx.ModelProto:
    """What builders do not write: a local function, sparse and typed constants, constant nodes, constant outputs."""
    b = models.Builder()
    x = b.conv("x", 3, 4, 1)
    b.nodes.append(helper.make_node("Scaled", [x], ["scaled"], "scaled", domain="local", factor=2.0))
    sparse = helper.make_sparse_tensor(
        helper.make_tensor("mask", onnx.TensorProto.FLOAT, [2], [1.0, 2.0]),
        helper.make_tensor("mask_at", onnx.TensorProto.INT64, [2], [0, 3]),
        [4, 1, 1],
    )
    typed = helper.make_tensor("shift", onnx.TensorProto.FLOAT, [1, 4, 1, 1], [0.1, 0.2, 0.3, 0.4])
    b.nodes.append(helper.make_node("Constant", [], ["gain"], value_floats=[0.5]))
    for operands, out in ((["scaled", "mask"], "masked"), (["masked", "shift"], "shifted"), (["shifted", "gain"], "g")):
        b.nodes.append(helper.make_node("Mul" if out != "shifted" else "Add", operands, [out], out))
    b.conv("g", 4, 5, 1, name="last")
    function = helper.make_function(
        "local",
        "Scaled",
        ["value"],
        ["result"],
        [helper.make_node("Constant", [], ["by"]), helper.make_node("Mul", ["value", "by"], ["result"])],
        [helper.make_opsetid("", 20)],
        ["factor"],
    )
    function.node[0].attribute.add(name="value_float", ref_attr_name="factor", type=onnx.AttributeProto.FLOAT)
    declared = [helper.make_tensor_value_info(name, 1, shape) for name, shape in (("x", [1, 3, 6, 6]), ("b", [5]))]
    graph = helper.make_graph(
        b.nodes,
        "unusual",
        declared,
        [helper.make_tensor_value_info("last_out", 1, None), helper.make_tensor_value_info("b", 1, [5])],
        [*b.initializers, typed, numpy_helper.from_array(b.rng.standard_normal(5).astype("float32"), "b")],
        doc_string="text",
        value_info=[helper.make_tensor_value_info("masked", 1, [1, 4, 6, 6])],
        sparse_initializer=[sparse],
    )
    imports = [helper.make_opsetid("", 20), helper.make_opsetid("local", 1)]
    proto = helper.make_model(graph, opset_imports=imports, ir_version=10, functions=[function])
    helper.set_model_props(proto, {"key": "value"})
    return proto
