"""What a model is for: which task its labels ask for, and what its outputs are. Imports no torch.

Labels carry their task: floats are values (regression), integers class numbers, one for each sample (classification) or
one for each position (segmentation). Outputs are scores over an axis or plain values, read off the graph.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import onnx

from netadapt_onnx.data.batch_layout import BatchAxis, Layout
from netadapt_onnx.data.shapes import Outputs, format_outputs
from netadapt_onnx.data.source import Kind
from netadapt_onnx.errors import invalid_data
from netadapt_onnx.graph.shapes import Shape

Form = Literal["logits", "probabilities", "log_probabilities", "values"]

KINDS: tuple[Kind, ...] = ("classification", "regression", "segmentation")
METRICS: Mapping[Kind, str] = {"classification": "top1", "regression": "r2", "segmentation": "miou"}
# Pascal VOC, Cityscapes and most others mark positions that nobody labelled with it.
UNLABELLED = 255
_LABELS_OF: Mapping[Kind, str] = {
    "classification": "classification (one class number a sample)",
    "regression": "regression (floats of an output's shape)",
    "segmentation": "segmentation (one class number a position)",
}
_MOVING = ("Reshape", "Flatten", "Squeeze", "Unsqueeze")


def kind_of(rank: int, floating: bool) -> Kind:
    """The task of labels that are stored as arrays of this rank and type."""
    if floating:
        return "regression"
    return "classification" if rank == 1 else "segmentation"


def class_output(outputs: Outputs) -> tuple[str, int] | None:
    """The output that holds a score per class, (N, C) or (N, C, 1, ...), and C; None unless there is exactly one."""
    candidates = [(name, shape[1]) for name, shape in outputs.items() if has_classes(shape)]
    return candidates[0] if len(candidates) == 1 else None


def has_classes(output: Shape) -> bool:
    """Whether an output of this shape can hold one score per class, (N, C) or (N, C, 1, ...)."""
    return len(output) >= 2 and output[1] > 1 and all(size == 1 for size in output[2:])


def class_axis(labels: Shape, output: Shape) -> int | None:
    """Which axis of an output holds classes, for labels with one class number a position; None if none can.

    Args:
        labels: (N, *positions).
        output: (N, C, *positions) or (N, *positions, C).
    """
    if len(output) != len(labels) + 1:
        return None
    for axis in (1, len(output) - 1):
        if output[axis] > 1 and (output[:axis] + output[axis + 1 :])[1:] == labels[1:]:
            return axis
    return None


def labels_fit(kind: Kind, labels: Shape, output: Shape) -> bool:
    """Whether labels of a shape can be targets of an output; the first axes are samples."""
    if kind == "classification":
        return len(labels) == 1 and has_classes(output)
    if kind == "segmentation":
        return len(labels) > 1 and class_axis(labels, output) is not None
    return _without_ones(labels) == _without_ones(output)


def match_labels_to_output(labels: Shape, floating: bool, outputs: Outputs) -> str:
    """The output that labels of one array are for.

    Raises:
        NetadaptError: There is not exactly one such output.
    """
    kind = kind_of(len(labels), floating)
    names = [name for name, shape in outputs.items() if labels_fit(kind, labels, shape)]
    if len(names) != 1:
        raise invalid_data(
            f"labels for {kind} fit {len(names)} of the model's outputs {format_outputs(outputs)}",
            "give labels by output name",
        )
    return names[0]


def require_task_fits(task: Kind | None, outputs: Outputs) -> None:
    """Check that labels for a task could fit some output.

    Raises:
        NetadaptError: None could; the hint says which tasks do.
    """
    if task is None or any(_may_fit(task, shape) for shape in outputs.values()):
        return
    raise invalid_data(
        f"--task {task} does not fit the model's outputs {format_outputs(outputs)}", fitting_tasks(outputs)
    )


def fitting_tasks(outputs: Outputs) -> str:
    """A hint: which tasks fit the outputs, and what labels each takes."""
    fitting = [_LABELS_OF[kind] for kind in KINDS if any(_may_fit(kind, shape) for shape in outputs.values())]
    return f"what fits: {', '.join([*fitting, 'distillation (no labels)'])}"


def _may_fit(kind: Kind, output: Shape) -> bool:
    """Whether labels for a task could be targets of an output."""
    if kind == "classification":
        return has_classes(output)
    return bool(output) if kind == "regression" else len(output) > 2 and max(output[1], output[-1]) > 1


def _without_ones(shape: Shape) -> Shape:
    return tuple(size for size in shape[1:] if size != 1)


@dataclass(frozen=True)
class OutputForm:
    """What an output holds: scores over `axis`, or plain values."""

    form: Form
    axis: int = 1


def output_forms(proto: onnx.ModelProto, shapes: Outputs, layout: Layout | None = None) -> dict[str, OutputForm]:
    """What each output of a model holds, read off its graph.

    Args:
        proto: The model, normalised.
        shapes: Shapes of its outputs at any batch size, samples first; outputs without a shape are left out.
        layout: Where the outputs hold their samples; None: along the first axis.
    """
    producers = {name: node for node in proto.graph.node for name in node.output}
    axes = {} if layout is None else layout.outputs
    return {
        value.name: _output_form(value.name, shapes[value.name], producers, axes.get(value.name, BatchAxis()))
        for value in proto.graph.output
        if value.name in shapes
    }


def _output_form(name: str, shape: Shape, producers: Mapping[str, onnx.NodeProto], batch: BatchAxis) -> OutputForm:
    node, moved = producers.get(name), False
    while node is not None and node.op_type in ("Identity", "Cast", *_MOVING):
        moved = moved or node.op_type in _MOVING
        node = producers.get(node.input[0])
    if node is not None and node.op_type in ("Softmax", "LogSoftmax"):
        form: Form = "probabilities" if node.op_type == "Softmax" else "log_probabilities"
        if has_classes(shape):
            return OutputForm(form, 1)
        rank = len(shape) - (batch.per_sample > 1)
        axis = batch.samples_first_axis(next((a.i for a in node.attribute if a.name == "axis"), -1) % rank)
        return OutputForm("values") if moved or axis is None else OutputForm(form, axis)
    if has_classes(shape) and (node is None or node.op_type != "Sigmoid"):
        return OutputForm("logits", 1)
    return OutputForm("values")
