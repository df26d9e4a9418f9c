"""How well a model's tensors fit together at some sizes of its inputs."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import onnx

from netadapt_onnx.errors import NetadaptError
from netadapt_onnx.graph.inputs import declared_shape
from netadapt_onnx.graph.required_shapes import NOT, SOMEHOW, WELL, Fits
from netadapt_onnx.graph.runtime import CANNOT_RUN
from netadapt_onnx.graph.shape_inference import Evaluation
from netadapt_onnx.graph.shapes import Shape, Shapes, Specs

Tensors = Mapping[str, onnx.TensorProto]


def fits_of(proto: onnx.ModelProto, tensors: Tensors, evaluate: Callable[[dict[str, Shape]], Evaluation]) -> Fits:
    """A function that rates how well the tensors of a model fit together.

    Args:
        proto: the model, which need not hold its initializers.
        tensors: those by name.
        evaluate: the evaluation of the model at the shapes of some inputs.
    """

    def fits(sizes: Shapes) -> int:
        try:
            return _fit(proto, evaluate(dict(sizes)), tensors)
        except NetadaptError:
            return NOT

    return fits


def _fit(proto: onnx.ModelProto, trial: Evaluation, tensors: Tensors) -> int:
    """A constant that is added should not stretch what it is added to."""
    specs = trial.tensor_specs
    possible = not any(reason.startswith(CANNOT_RUN) for reason in trial.opaque.values())
    if not possible or not all(agrees(value, specs) for value in proto.graph.output):
        return NOT
    for node in proto.graph.node:
        if node.op_type == "Add" and len(node.input) == 2 and not tensors.keys().isdisjoint(node.input):
            shapes = {specs[n][0] for n in (*node.input, *node.output) if n in specs and n not in tensors}
            if len(shapes) > 1:
                return SOMEHOW
    return WELL


def agrees(value: onnx.ValueInfoProto, specs: Specs) -> bool:
    """Whether a tensor has the shape that the file declares."""
    declared = declared_shape(value)
    if declared is None or value.name not in specs:
        return True
    shape = specs[value.name][0]
    return len(shape) == len(declared) and all(d in (None, n) for d, n in zip(declared, shape, strict=True))
