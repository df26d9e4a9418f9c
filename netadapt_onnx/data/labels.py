"""Labels as users store them, checked against a model's outputs."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from netadapt_onnx.data.shapes import Outputs, format_outputs, format_shape
from netadapt_onnx.data.source import Kind
from netadapt_onnx.data.tasks import UNLABELLED, class_axis, fitting_tasks, has_classes, labels_fit
from netadapt_onnx.errors import invalid_data
from netadapt_onnx.graph.shapes import Shape

# Arrays may be larger than memory, so they are read in pieces of this size.
PIECE_BYTES = 1 << 24
# One-hot labels are recognised by so many rows.
_SAMPLED_ROWS = 4096


def check_labels(
    key: str, labels: np.ndarray, count: int, outputs: Outputs, task: Kind | None
) -> tuple[str, np.ndarray]:
    """Match labels with an output, and bring them into the shape and type that carry their task.

    Args:
        key: The name of the array in messages.
        labels: The array as stored, (N, ...).
        count: How many samples there are.
        outputs: Shapes of the outputs that the labels may be for, samples first.
        task: Decides where type and shape leave a choice.

    Returns:
        The output's name and the labels: integers for classes, floats for values.

    Raises:
        NetadaptError: The labels fit no output or several, are too many or too few, class numbers are out of range, or
            values are not finite.
    """
    _check_array(key, labels, count)
    kind, name, shape = _fitting_output(key, labels, outputs, task)
    if kind == "regression" and task != "regression" and _is_one_hot(labels):
        raise invalid_data(
            f"{key} of shape {format_shape(labels.shape)} looks like one-hot classes",
            "save one class number each (argmax(1)), or give --task regression",
        )
    shaped = labels.reshape(shape)
    if kind == "regression":
        require_finite(key, shaped)
        return name, shaped if shaped.dtype.kind == "f" else shaped.astype(np.float32)
    _require_in_range(key, shaped, name, outputs[name])
    return name, shaped


def require_finite(key: str, values: np.ndarray) -> None:
    """Check that an array holds finite numbers.

    Raises:
        NetadaptError: It holds NaN or infinity; the message names the first sample that does.
    """
    for start, piece in pieces(values):
        finite = np.isfinite(piece)
        if not finite.all():
            raise invalid_data(f"{key} holds NaN or infinity (sample {start + int(np.argwhere(~finite)[0][0])})")


def pieces(values: np.ndarray) -> Iterator[tuple[int, np.ndarray]]:
    """Consecutive rows of an array, 16 MiB at a time, with the number of the first."""
    rows = max(1, PIECE_BYTES * len(values) // max(1, values.nbytes))
    for start in range(0, len(values), rows):
        yield start, values[start : start + rows]


def _check_array(key: str, labels: np.ndarray, count: int) -> None:
    if labels.dtype.kind not in "iufb":
        raise invalid_data(f"{key} has type {labels.dtype}: labels are numbers")
    if not labels.ndim or len(labels) != count:
        inputs = f"x_{key[2:].partition('.')[0]} holds" if key.startswith("y_") else "there are"
        raise invalid_data(f"{key} has shape {format_shape(labels.shape)}, but {inputs} {count} samples")


def _fitting_output(key: str, labels: np.ndarray, outputs: Outputs, task: Kind | None) -> tuple[Kind, str, Shape]:
    """The task and the output that labels are for, and the shape in which they fit it."""
    kinds = _possible_kinds(labels, task)
    fitting = [
        (kind, name, fitting_shape)
        for kind in kinds
        for name, shape in outputs.items()
        # Integers for an output that holds scores of classes are one-hot or a mistake, unless `task` decides otherwise.
        if (fitting_shape := _fitting_shape(kind, labels, shape))
        and not (kind == "regression" and len(kinds) > 1 and has_classes(shape))
    ]
    if not fitting:
        for_task = f" for --task {task}" if task else ""
        raise invalid_data(
            f"{key} of shape {format_shape(labels.shape)} and type {labels.dtype} fits none of the model's outputs "
            f"{format_outputs(outputs)}{for_task}",
            fitting_tasks(outputs),
        )
    kind = fitting[0][0]
    names = [name for other, name, _ in fitting if other == kind]
    if len(names) > 1:
        raise invalid_data(
            f"{key} of shape {format_shape(labels.shape)} fits several outputs: {', '.join(names)}",
            f"name the one it is for: {key}.{names[0]}",
        )
    return fitting[0]


def _possible_kinds(labels: np.ndarray, task: Kind | None) -> tuple[Kind, ...]:
    """The tasks that labels may be for, likeliest first; floats are never class numbers."""
    if task is not None:
        return (task,)
    return ("regression",) if labels.dtype.kind == "f" else ("classification", "segmentation", "regression")


def _fitting_shape(kind: Kind, labels: np.ndarray, output: Shape) -> Shape | None:
    """The shape in which labels fit an output, without a needless axis; None if they do not."""
    if kind == "regression":
        return (len(labels), *output[1:]) if labels_fit(kind, labels.shape, output) else None
    if labels.dtype.kind == "f":
        return None
    shapes = [labels.shape] + [labels.shape[:1] + labels.shape[2:]] * (labels.shape[1:2] == (1,))
    return next((shape for shape in shapes if labels_fit(kind, shape, output)), None)


def _is_one_hot(labels: np.ndarray) -> bool:
    """Whether each row is one class, as numbers from 0 to 1 that sum to 1."""
    if labels.ndim != 2 or labels.shape[1] < 2:
        return False
    rows = np.asarray(labels[:_SAMPLED_ROWS], np.float64)
    return bool((rows >= 0).all() and np.abs(rows.sum(1) - 1).max() < 1e-3)


def _require_in_range(key: str, labels: np.ndarray, name: str, output: Shape) -> None:
    """Raise NetadaptError for the first class number that the output does not have."""
    axis = 1 if labels.ndim == 1 else class_axis(labels.shape, output)
    assert axis is not None
    classes = output[axis]
    for start, piece in pieces(labels):
        wrong = (piece < 0) | (piece >= classes)
        if labels.ndim > 1:
            wrong &= piece != UNLABELLED
        if wrong.any():
            first = np.argwhere(wrong)[0]
            raise invalid_data(
                f"{key} holds label {piece[tuple(first)]} (sample {start + int(first[0])}), but the model's output "
                f"'{name}' has {classes} classes, 0 to {classes - 1}",
            )
