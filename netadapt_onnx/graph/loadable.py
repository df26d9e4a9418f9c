"""Whether a written model is what it should be: onnxruntime opens the file, and the results have the planned shapes.

Nothing is run for it, and weights are looked at once at most. A model is refused only for what its original does not
have as well: an operator that onnxruntime lacks here is no fault of a cut.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import onnx

from netadapt_onnx.common.escape import legible
from netadapt_onnx.errors import NetadaptError, one_line
from netadapt_onnx.graph.runtime import lacks_operator, session
from netadapt_onnx.graph.shapes import Specs, format_shape
from netadapt_onnx.graph.weightless import weights_as_inputs

Axes = Sequence[int | str | None]


@dataclass(frozen=True)
class Interface:
    """Shape and type of what a model takes and returns; results whose shape depends on the data are left out.

    `original` is the model that it was made of, if there is one to compare it with.
    """

    inputs: Specs
    outputs: Specs
    original: onnx.ModelProto | None = None


def require_openable(file: Path, planned: Interface | None = None) -> None:
    """Raise NetadaptError (code `bad-cut`) if onnxruntime refuses a file whose original it takes."""
    # Names of files may hold bytes that are no characters: such a path cannot be handed to onnxruntime.
    error = _refusal(file if legible(str(file)) == str(file) else onnx.load(file))
    original = None if planned is None else planned.original
    if error is not None and not (lacks_operator(error) if original is None else _refusal(original)):
        raise wrong_cut(f"onnxruntime says: {one_line(error.__cause__ or error)}") from error


def _refusal(model: onnx.ModelProto | Path) -> NetadaptError | None:
    """Why onnxruntime refuses a model or its file, None if it takes it."""
    try:
        session(model, optimise=False, prepack=False)
    except NetadaptError as error:
        return error
    return None


def require_planned(proto: onnx.ModelProto, planned: Interface) -> None:
    """Raise NetadaptError (code `bad-cut`) if a model does not return what is planned, as onnxruntime infers it.

    Sizes that the file leaves open are those of `planned.inputs`. Where onnxruntime infers no
    shape the model passes, and where it infers the same of the original.
    """
    try:
        inferred = _inferred(proto, planned.inputs)
    except NetadaptError as error:
        if lacks_operator(error) if planned.original is None else _original(planned) is None:
            return
        raise wrong_cut(f"onnxruntime says: {one_line(error.__cause__ or error)}") from error
    for name, (shape, dtype) in planned.outputs.items():
        if name not in inferred:
            raise wrong_cut(f"it has lost its output '{name}'")
        kind, axes = inferred[name]
        expected = f"{_KINDS.get(dtype.name, kind)} of shape {format_shape(shape)}"
        if expected != f"{kind} of shape {format_shape(_filled(axes, shape))}":
            original = _original(planned)
            if original is None or original.get(name) != (kind, axes):
                inferred_type = f"a {kind} of shape {format_shape(axes)}"
                raise wrong_cut(f"its output '{name}' is {inferred_type} and should be a {expected}")


def _original(planned: Interface) -> dict[str, tuple[str, Axes]] | None:
    """What onnxruntime infers of the original, None if it refuses that."""
    if planned.original is None:
        return None
    try:
        return _inferred(planned.original, planned.inputs)
    except NetadaptError:
        return None


def _filled(axes: Axes, shape: tuple[int, ...]) -> Axes:
    """The axes that onnxruntime infers, all others as planned. Where it infers no rank it returns no axes."""
    if not axes or len(axes) != len(shape):
        return axes or shape
    return [n if isinstance(n, int) else m for n, m in zip(axes, shape, strict=True)]


# By numpy's name how onnxruntime calls a type.
_KINDS = {"float32": "tensor(float)", "float64": "tensor(double)", "object": "tensor(string)"} | {
    name: f"tensor({name})"
    for name in ("float16", "bfloat16", "bool", *(f"{sign}int{bits}" for sign in ("", "u") for bits in (8, 16, 32, 64)))
}


def _inferred(proto: onnx.ModelProto, inputs: Specs) -> dict[str, tuple[str, Axes]]:
    """Type and shape of a model's outputs at these sizes of its inputs, without its weights."""
    light = weights_as_inputs(proto)
    for value in light.graph.input:
        if value.name in inputs and value.type.HasField("tensor_type"):
            del value.type.tensor_type.shape.dim[:]
            for size in inputs[value.name][0]:
                value.type.tensor_type.shape.dim.add(dim_value=size)
    for value in light.graph.output:  # what the file says of them is not what is computed
        if value.type.HasField("tensor_type"):
            value.type.tensor_type.ClearField("shape")
    del light.graph.value_info[:]
    opened = session(light, optimise=False)
    return {value.name: (value.type, value.shape) for value in opened.get_outputs()}


def wrong_cut(what: str) -> NetadaptError:
    """The error for a model that surgery made wrong."""
    return NetadaptError(
        f"the model that was made is wrong and is not written: {what}",
        hint="this is a bug: please report it with the model; `--keep GROUP=N` cuts one group at a time meanwhile",
        code="bad-cut",
    )
