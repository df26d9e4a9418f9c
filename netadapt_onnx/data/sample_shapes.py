"""Sizes of a model's dynamic axes as samples have them: what an error proposes where there are data."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import onnx

from netadapt_onnx.data.dataset import SPLITS
from netadapt_onnx.data.loaders.npz import read_npz
from netadapt_onnx.data.source import source_of
from netadapt_onnx.errors import NetadaptError
from netadapt_onnx.graph.fold_shapes import fold
from netadapt_onnx.graph.folded_model import FoldedModel
from netadapt_onnx.graph.inputs import declared_shape
from netadapt_onnx.graph.required_shapes import OPEN, open_inputs, shape_options, typed
from netadapt_onnx.graph.shapes import Shapes


@contextmanager
def proposing_sizes_of(
    data: str | os.PathLike[str] | None, proto: onnx.ModelProto, shapes: Shapes | None, batch_size: int = 1
) -> Iterator[None]:
    """A context in which an error about dynamic axes without sizes proposes those of the samples.

    Args:
        data: The data; None: the error stays as it is.
        proto: The model.
        shapes: Shapes of inputs that the user chose, by name.
        batch_size: Entries of the first axis.
    """
    try:
        yield
    except NetadaptError as error:
        chosen = dict(shapes or {})
        sizes = {} if error.code != OPEN or data is None else _sample_shapes(proto, chosen, data, batch_size)
        if not sizes:
            raise
        hint = f"as --data has it, give its shape with {typed(shape_options({**chosen, **sizes}))}"
        raise NetadaptError(error.message, hint=hint, code=OPEN) from error


def fold_for(
    proto: onnx.ModelProto, shapes: Shapes | None, data: str | os.PathLike[str] | None, batch_size: int = 1
) -> FoldedModel:
    """Normalise a model that samples are for; see `fold`. An error about dynamic axes proposes the samples' sizes."""
    with proposing_sizes_of(data, proto, shapes, batch_size):
        return fold(proto, dict(shapes or {}), batch_size)


def _sample_shapes(
    proto: onnx.ModelProto, chosen: Shapes, data: str | os.PathLike[str], batch_size: int
) -> dict[str, tuple[int, ...]]:
    """A shape for every open input; none at all unless the data have samples of all of them."""
    file = Path(source_of(data).path)
    if file.suffix != ".npz":
        return {}
    try:
        stored = read_npz(file)
    except NetadaptError:  # which is raised once the model itself is understood
        return {}
    sizes = {}
    for tensor in open_inputs(proto, chosen):
        names = [f"x_{split}.{tensor.name}" for split in SPLITS]
        names += [f"x_{split}" for split in SPLITS] if len(proto.graph.input) == 1 else []
        samples = next((stored[name].shape for name in names if name in stored), None)
        declared = next(declared_shape(value) for value in proto.graph.input if value.name == tensor.name)
        shape = (batch_size, *samples[1:]) if samples else ()
        fits = declared is None or len(declared) == len(shape)
        if not shape or not fits or any(d not in (None, n) for d, n in zip(declared or (), shape, strict=False)):
            return {}
        sizes[tensor.name] = shape
    return sizes
