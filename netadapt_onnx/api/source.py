"""What every verb takes for a model, a path or a loaded one: opened, traced, and kept from being overwritten."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

from onnx import TensorProto

from netadapt_onnx.common.files import refuse_existing
from netadapt_onnx.errors import NetadaptError
from netadapt_onnx.graph.fold import fold
from netadapt_onnx.graph.model import Model, data_file, load
from netadapt_onnx.graph.shapes import Shapes
from netadapt_onnx.surgery.labels import Choices
from netadapt_onnx.surgery.trace import Trace, trace

Source = str | os.PathLike[str] | Model


def open_model(source: Source) -> Model:
    """A model from its path, or as it is if it is loaded already."""
    return source if isinstance(source, Model) else load(source)


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
        model: the model; with `in_place` its own proto is folded, which spares a copy of its weights.
        shapes: those of inputs with dynamic axes beyond the first.
        batch_size: the length of dynamic first axes.
        choices: what surgery leaves to the user.
        in_place: whether the model is changed.

    Raises:
        NetadaptError: if the model is wrong, or an axis needs `shapes`.
    """
    folded = fold(model.proto, shapes, batch_size, in_place=in_place)
    is_outside = any(tensor.data_location == TensorProto.EXTERNAL for tensor in folded.proto.graph.initializer)
    return trace(replace(folded, file=model.path) if is_outside else folded, choices)


def prepare_output(output: Path, overwrite: bool, *inputs: Source | None) -> None:
    """Raise NetadaptError if `output` may not be written: it is an input, it exists, or its folder is missing.

    `inputs` are all files that the work reads; those of a Model include its external data.
    """
    for source in inputs:
        for file in _files(source):
            if _same(output, file) or _same(data_file(output), file):
                raise NetadaptError(
                    f"{file} is an input, which is never overwritten", hint="choose another output", code="exists"
                )
    refuse_existing(output, overwrite)


def _files(source: Source | None) -> tuple[Path, ...]:
    if source is None:
        return ()
    return source.files if isinstance(source, Model) else (Path(source),)


def _same(a: Path, b: Path) -> bool:
    return a.exists() and b.exists() and a.samefile(b)
