"""A loaded model, folded and traced."""

from __future__ import annotations

from dataclasses import replace

from onnx import TensorProto

from netadapt_onnx.graph.fold import fold
from netadapt_onnx.graph.model import Model
from netadapt_onnx.graph.shapes import Shapes
from netadapt_onnx.surgery.labels import Choices
from netadapt_onnx.surgery.trace import Trace, trace


def trace_model(
    model: Model,
    shapes: Shapes | None = None,
    batch_size: int = 1,
    choices: Choices | None = None,
    *,
    in_place: bool = False,
) -> Trace:
    """Fold and trace a model.

    Args:
        model: The model; with `in_place` its own proto is folded, which spares a copy of its weights.
        shapes: Those of inputs with dynamic axes beyond the first.
        batch_size: The length of dynamic first axes.
        choices: What surgery leaves to the user.
        in_place: Whether the model is changed.

    Raises:
        NetadaptError: If the model is wrong, or an axis needs `shapes`.
    """
    folded = fold(model.proto, shapes, batch_size, in_place=in_place)
    is_outside = any(tensor.data_location == TensorProto.EXTERNAL for tensor in folded.proto.graph.initializer)
    return trace(replace(folded, file=model.path) if is_outside else folded, choices)
