"""From a model to its groups, as every command goes about it."""

from __future__ import annotations

import onnx

from netadapt_onnx.graph.fold_shapes import fold
from netadapt_onnx.graph.passes.pipeline import normalise
from netadapt_onnx.surgery.labels import Choices
from netadapt_onnx.surgery.trace import Trace, trace


def trace_model(
    proto: onnx.ModelProto,
    choices: Choices | None = None,
    *,
    shapes: dict[str, tuple[int, ...]] | None = None,
    batch_size: int = 1,
) -> Trace:
    """Normalise a model in place, fold its shapes and trace its channels."""
    normalise(proto)
    return trace(fold(proto, shapes, batch_size), choices)
