"""Models from before opset 7, which onnxruntime does not run: brought to opset 7 when they are loaded."""

from __future__ import annotations

import onnx
import onnx.version_converter

# The oldest opset that onnxruntime has operators of.
MINIMUM_OPSET = 7


def upgrade(proto: onnx.ModelProto) -> None:
    """Convert in place to opset 7; a model that onnx cannot convert stays as it is.

    One version at a time: converters ask for shapes, which inference finds only behind operators it knows by then
    (Reshape, whose shape was an attribute before opset 5).
    """
    version = next((o.version for o in proto.opset_import if o.domain in ("", "ai.onnx")), MINIMUM_OPSET)
    converted = proto
    for target in range(version + 1, MINIMUM_OPSET + 1):
        try:
            converted = onnx.version_converter.convert_version(converted, target)
        except Exception:  # what pybind11 lets through of C++ has no narrower type
            return
        del converted.graph.value_info[:]  # some are left without a type
    if converted is not proto:
        proto.CopyFrom(converted)
