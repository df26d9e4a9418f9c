"""Models from before opset 7, which onnxruntime does not run: brought to opset 7 when they are loaded."""

from __future__ import annotations

import onnx
import onnx.version_converter

from netadapt_onnx.graph.nodes import opset_version
from netadapt_onnx.graph.passes.result import PassResult

# The oldest opset that onnxruntime has operators of.
MINIMUM_OPSET = 7


def upgrade_opset(proto: onnx.ModelProto) -> PassResult[onnx.ModelProto]:
    """Convert in place to opset 7; a model that onnx cannot convert stays as it is.

    One version at a time: converters ask for shapes, which inference has only behind operators that it knows by then
    (Reshape, whose shape was an attribute before opset 5).
    """
    converted = proto
    for target in range(opset_version(proto, MINIMUM_OPSET) + 1, MINIMUM_OPSET + 1):
        try:
            converted = onnx.version_converter.convert_version(converted, target)
        except Exception:  # what pybind11 lets through of C++ has no narrower type
            return PassResult(proto, False)
        del converted.graph.value_info[:]  # some are left without a type
    if converted is proto:
        return PassResult(proto, False)
    proto.CopyFrom(converted)
    return PassResult(proto, True)
