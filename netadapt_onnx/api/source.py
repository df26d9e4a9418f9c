"""What every verb takes for a model, a path or a loaded one: opened, and kept from being overwritten."""

from __future__ import annotations

import os
from pathlib import Path

from netadapt_onnx.common.files import refuse_existing
from netadapt_onnx.errors import NetadaptError
from netadapt_onnx.graph.model import Model, data_file, load

Source = str | os.PathLike[str] | Model


def open_model(source: Source) -> Model:
    """A model from its path, or as it is if it is loaded already."""
    return source if isinstance(source, Model) else load(source)


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
