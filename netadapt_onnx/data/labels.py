"""What labels say of a model's outputs: which task they are for, and whether they fit.

The arrays themselves carry the task: floats are values (regression), integers class numbers, one a sample
(classification) or one a position (segmentation).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Literal

import numpy as np

from netadapt_onnx.data.source import TaskName
from netadapt_onnx.errors import NetadaptError

Kind = Literal["classification", "regression", "segmentation"]
Shape = tuple[int, ...]
Outputs = Mapping[str, Shape]

KINDS: tuple[Kind, ...] = ("classification", "regression", "segmentation")
METRICS: Mapping[Kind, str] = {"classification": "top1", "regression": "r2", "segmentation": "miou"}
# Pascal VOC, Cityscapes and most others mark positions that nobody labelled with it.
UNLABELLED = 255
# Arrays may be larger than memory, so they are looked at in pieces of this size.
PIECE_BYTES = 1 << 24
_LOOKED_AT_ROWS = 4096


def class_output(outputs: Outputs) -> tuple[str, int] | None:
    """The one output that holds a score per class, and its classes: (N, C) or (N, C, 1, ...); None if there is none."""
    found = [(name, shape[1]) for name, shape in outputs.items() if _has_classes(shape)]
    return found[0] if len(found) == 1 else None


def kind_of(rank: int, floating: bool) -> Kind:
    """The task of labels that are stored as such arrays."""
    if floating:
        return "regression"
    return "classification" if rank == 1 else "segmentation"


def class_axis(labels: Shape, output: Shape) -> int | None:
    """Which axis of an output holds classes, for labels with one class number a position; None if none can.

    Shapes: labels (N, *positions), output (N, C, *positions) or (N, *positions, C).
    """
    if len(output) != len(labels) + 1:
        return None
    for axis in (1, len(output) - 1):
        if output[axis] > 1 and (output[:axis] + output[axis + 1 :])[1:] == labels[1:]:
            return axis
    return None


def fits(kind: Kind, labels: Shape, output: Shape) -> bool:
    """Whether labels of this shape can be what an output of that shape should be; the first axes are samples."""
    if kind == "classification":
        return len(labels) == 1 and _has_classes(output)
    if kind == "segmentation":
        return len(labels) > 1 and class_axis(labels, output) is not None
    return _without_ones(labels) == _without_ones(output)


def match_labels_to_output(labels: Shape, floating: bool, outputs: Outputs) -> str:
    """The output that labels of one array speak of. Raises NetadaptError unless there is exactly one."""
    kind = kind_of(len(labels), floating)
    found = [name for name, shape in outputs.items() if fits(kind, labels, shape)]
    if len(found) != 1:
        raise NetadaptError(
            f"labels for {kind} fit {len(found)} of the model's outputs {listed(outputs)}",
            hint="give labels by output name",
            code="invalid-data",
        )
    return found[0]


def checked(
    key: str, labels: np.ndarray, count: int, outputs: Outputs, task: TaskName | None
) -> tuple[str, np.ndarray]:
    """The output that labels speak of, and the labels in the type that carries their task.

    `key` names the array in messages. `task` decides where type and shape leave a choice. Raises NetadaptError for
    labels that fit no output or several, the wrong number of them, class numbers out of range, and values that are no
    numbers.
    """
    if labels.dtype.kind not in "iufb":
        raise _invalid(f"{key} has type {labels.dtype}: labels are numbers")
    if not labels.ndim or len(labels) != count:
        inputs = f"x_{key[2:].partition('.')[0]} holds" if key.startswith("y_") else "there are"
        raise _invalid(f"{key} has shape {shown(labels.shape)}, but {inputs} {count} samples")
    kinds = _kinds(labels, task)
    fitting = [
        (kind, name)
        for kind in kinds
        for name, shape in outputs.items()
        # Whole numbers beside scores of classes are one-hot, if not a mistake, until somebody says otherwise.
        if _shaped(kind, labels, shape) and not (kind == "regression" and len(kinds) > 1 and _has_classes(shape))
    ]
    if not fitting:
        raise _unfit(key, labels, outputs, task)
    kind = fitting[0][0]
    names = [name for found, name in fitting if found == kind]
    if len(names) > 1:
        raise _invalid(
            f"{key} of shape {shown(labels.shape)} fits several outputs: {', '.join(names)}",
            f"name the one it is for: {key}.{names[0]}",
        )
    if kind == "regression" and task != "regression" and _one_hot(labels):
        raise _invalid(
            f"{key} of shape {shown(labels.shape)} looks like one-hot classes",
            "save one class number each (argmax(1)), or give --task regression",
        )
    shape = _shaped(kind, labels, outputs[names[0]])
    assert shape is not None
    shaped = labels.reshape(shape)
    if kind == "regression":
        require_finite(key, shaped)
        return names[0], shaped if shaped.dtype.kind == "f" else shaped.astype(np.float32)
    _in_range(key, shaped, names[0], outputs[names[0]])
    return names[0], shaped


def require_fitting(task: TaskName | None, outputs: Outputs) -> None:
    """Raise NetadaptError for a task that no labels could make fit these outputs; says which tasks do."""
    if task in (None, "distillation") or any(_possible(task, shape) for shape in outputs.values()):
        return
    raise _invalid(f"--task {task} does not fit the model's outputs {listed(outputs)}", _fitting(outputs))


def require_finite(key: str, labels: np.ndarray) -> None:
    """Raise NetadaptError for the first row of an array that holds NaN or infinity."""
    for start, some in pieces(labels):
        finite = np.isfinite(some)
        if not finite.all():
            raise _invalid(f"{key} holds NaN or infinity (sample {start + int(np.argwhere(~finite)[0][0])})")


def listed(outputs: Outputs) -> str:
    """Outputs as messages show them."""
    return ", ".join(f"'{name}' {'x'.join(['N', *map(str, shape[1:])])}" for name, shape in outputs.items())


def shown(shape: Iterable[int]) -> str:
    """A shape as messages show it."""
    return "x".join(map(str, shape)) or "()"


def pieces(values: np.ndarray) -> Iterator[tuple[int, np.ndarray]]:
    """Consecutive rows of an array, with the number of the first."""
    rows = max(1, PIECE_BYTES * len(values) // max(1, values.nbytes))
    for start in range(0, len(values), rows):
        yield start, values[start : start + rows]


def _has_classes(shape: Shape) -> bool:
    return len(shape) >= 2 and shape[1] > 1 and all(size == 1 for size in shape[2:])


def _possible(kind: str, shape: Shape) -> bool:
    if kind == "classification":
        return _has_classes(shape)
    return bool(shape) if kind == "regression" else len(shape) > 2 and max(shape[1], shape[-1]) > 1


def _without_ones(shape: Shape) -> Shape:
    return tuple(size for size in shape[1:] if size != 1)


def _kinds(labels: np.ndarray, task: TaskName | None) -> tuple[Kind, ...]:
    """What the labels may be, likeliest first; floats are class numbers for nobody."""
    if task in KINDS:
        return (task,)
    return ("regression",) if labels.dtype.kind == "f" else ("classification", "segmentation", "regression")


def _shaped(kind: Kind, labels: np.ndarray, output: Shape) -> Shape | None:
    """The shape in which labels fit an output, without a needless axis; None if they do not."""
    if kind == "regression":
        return (len(labels), *output[1:]) if fits(kind, labels.shape, output) else None
    if labels.dtype.kind == "f":
        return None
    shapes = [labels.shape] + [labels.shape[:1] + labels.shape[2:]] * (labels.shape[1:2] == (1,))
    return next((shape for shape in shapes if fits(kind, shape, output)), None)


def _one_hot(labels: np.ndarray) -> bool:
    """Rows of one class each, as numbers from 0 to 1 that sum to 1."""
    if labels.ndim != 2 or labels.shape[1] < 2:
        return False
    some = np.asarray(labels[:_LOOKED_AT_ROWS], np.float64)
    return bool((some >= 0).all() and np.abs(some.sum(1) - 1).max() < 1e-3)


def _in_range(key: str, labels: np.ndarray, name: str, output: Shape) -> None:
    """Raise NetadaptError for the first class number that the output does not have."""
    axis = 1 if labels.ndim == 1 else class_axis(labels.shape, output)
    assert axis is not None
    classes = output[axis]
    for start, some in pieces(labels):
        wrong = (some < 0) | (some >= classes)
        if labels.ndim > 1:
            wrong &= some != UNLABELLED
        if wrong.any():
            where = np.argwhere(wrong)[0]
            raise _invalid(
                f"{key} holds label {some[tuple(where)]} (sample {start + int(where[0])}), but the model's output "
                f"'{name}' has {classes} classes, 0 to {classes - 1}",
            )


def _unfit(key: str, labels: np.ndarray, outputs: Outputs, task: TaskName | None) -> NetadaptError:
    said = f" for --task {task}" if task else ""
    return _invalid(
        f"{key} of shape {shown(labels.shape)} and type {labels.dtype} fits none of the model's outputs "
        f"{listed(outputs)}{said}",
        _fitting(outputs),
    )


def _fitting(outputs: Outputs) -> str:
    """Which tasks fit, and what labels each takes."""
    takes: Mapping[Kind, str] = {
        "classification": "classification (one class number a sample)",
        "regression": "regression (floats of an output's shape)",
        "segmentation": "segmentation (one class number a position)",
    }
    able = [takes[kind] for kind in KINDS if any(_possible(kind, shape) for shape in outputs.values())]
    return f"what fits: {', '.join([*able, 'distillation (no labels)'])}"


def _invalid(message: str, hint: str = "") -> NetadaptError:
    return NetadaptError(message, hint=hint, code="invalid-data")
