"""How well a model's tensors fit together at some sizes of its inputs."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import onnx

from netadapt_onnx.errors import NetadaptError
from netadapt_onnx.graph.model import declared_shape
from netadapt_onnx.graph.required_shapes import NOT, SOMEHOW, WELL, Fits
from netadapt_onnx.graph.runtime import CANNOT_RUN
from netadapt_onnx.graph.shape_inference import Evaluation, Known

Tensors = Mapping[str, onnx.TensorProto]


def fits_of(
    proto: onnx.ModelProto, tensors: Tensors, evaluated: Callable[[dict[str, tuple[int, ...]]], Evaluation]
) -> Fits:
    """A function that tells it for a model with initializers `tensors`, whose shapes `evaluated` finds."""

    def fits(sizes: Mapping[str, tuple[int, ...]]) -> int:
        try:
            return _fit(proto, evaluated(dict(sizes)), tensors)
        except NetadaptError:
            return NOT

    return fits


def _fit(proto: onnx.ModelProto, trial: Evaluation, tensors: Tensors) -> int:
    """A constant that is added should not stretch what it is added to."""
    possible = not any(reason.startswith(CANNOT_RUN) for reason in trial.opaque.values())
    if not possible or not all(agrees(value, trial.known) for value in proto.graph.output):
        return NOT
    for node in proto.graph.node:
        if node.op_type == "Add" and len(node.input) == 2 and not tensors.keys().isdisjoint(node.input):
            shapes = [trial.known[n][0] for n in (*node.input, *node.output) if n in trial.known and n not in tensors]
            if len(set(shapes)) > 1:
                return SOMEHOW
    return WELL


def agrees(value: onnx.ValueInfoProto, known: Known) -> bool:
    """Whether a tensor has the shape that the file declares."""
    declared = declared_shape(value)
    if declared is None or value.name not in known:
        return True
    shape = known[value.name][0]
    return len(shape) == len(declared) and all(d in (None, n) for d, n in zip(declared, shape, strict=True))
