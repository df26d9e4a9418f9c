"""What a model's outputs are, read off its graph: scores over an axis, or plain values. Imports no torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import onnx

from netadapt_onnx.data.batch_layout import BatchAxis, Layout
from netadapt_onnx.data.labels import class_output

Form = Literal["logits", "probabilities", "log_probabilities", "values"]
_MOVING = ("Reshape", "Flatten", "Squeeze", "Unsqueeze")


@dataclass(frozen=True)
class Output:
    """One output as a loss or an agreement sees it: scores over `axis`, or plain values."""

    form: Form
    axis: int = 1


def forms(
    proto: onnx.ModelProto, shapes: Mapping[str, tuple[int, ...]], layout: Layout | None = None
) -> dict[str, Output]:
    """The form of every output that has a shape in `shapes`, which are those at any batch size, samples first.

    `layout`: where the outputs hold their samples; None: along the first axis.
    """
    producers = {name: node for node in proto.graph.node for name in node.output}
    axes = {} if layout is None else layout.outputs
    return {
        value.name: _form(value.name, shapes[value.name], producers, axes.get(value.name, BatchAxis()))
        for value in proto.graph.output
        if value.name in shapes
    }


def _form(name: str, shape: tuple[int, ...], producers: Mapping[str, onnx.NodeProto], batch: BatchAxis) -> Output:
    node, moved = producers.get(name), False
    while node is not None and node.op_type in ("Identity", "Cast", *_MOVING):
        moved = moved or node.op_type in _MOVING
        node = producers.get(node.input[0])
    scores = class_output({name: shape}) is not None
    if node is not None and node.op_type in ("Softmax", "LogSoftmax"):
        form: Form = "probabilities" if node.op_type == "Softmax" else "log_probabilities"
        rank = len(shape) - (batch.per_sample > 1)
        axis = batch.samples_first_axis(next((a.i for a in node.attribute if a.name == "axis"), -1) % rank)
        if scores:
            return Output(form, 1)
        return Output("values") if moved or axis is None else Output(form, axis)
    if scores and (node is None or node.op_type != "Sigmoid"):
        return Output("logits", 1)
    return Output("values")
