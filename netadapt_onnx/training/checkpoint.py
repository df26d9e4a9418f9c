"""A training on disk: what was chosen for it, and its last saved state. Written aside and renamed, so never half."""

from __future__ import annotations

import os
import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from netadapt_onnx.common.files import aside
from netadapt_onnx.common.options import different_options, how_to_go_on
from netadapt_onnx.errors import NetadaptError, one_line


class Checkpoint:
    """What one training has recorded. Without a `path` it is kept in memory, and gone with the process.

    Attributes:
        path: The file.
        content: The recorded values by name; empty at first.
    """

    def __init__(self, path: Path | None, identity: Mapping[str, Any]) -> None:
        """Read the file, if it exists.

        Args:
            path: The file, or None.
            identity: All that decides the training's result besides the choices in `content`.

        Raises:
            NetadaptError: The file is another training's (`other-run`), or broken (`corrupt-run`).
        """
        self.path = path
        self.content: dict[str, Any] = {}
        self._identity = dict(identity)
        if path is not None and path.exists():
            self.content = _read(path, self._identity)

    @property
    def on_disk(self) -> bool:
        """Whether the training can go on after its process was killed."""
        return self.path is not None

    def put(self, **values: Any) -> None:
        """Record values (numbers, texts, lists, dicts and tensors); they are on the disk when this returns."""
        self.content = {**self.content, **values, "identity": self._identity}
        if self.path is None:
            return
        with aside(self.path) as temporary, temporary.open("wb") as file:
            torch.save(self.content, file)
            file.flush()
            os.fsync(file.fileno())


def _read(path: Path, identity: Mapping[str, Any]) -> dict[str, Any]:
    """The content of a checkpoint of a training with this identity."""
    try:
        content: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
        recorded = dict(content["identity"])
    except (OSError, RuntimeError, EOFError, KeyError, TypeError, ValueError, pickle.UnpicklingError) as error:
        raise NetadaptError(
            f"{path} is not readable as a checkpoint: {one_line(error, 100)}", hint="remove it", code="corrupt-run"
        ) from error
    different = different_options(recorded, identity)
    if different:
        name = different[0]
        raise NetadaptError(
            f"{path} belongs to another training: {name} is {recorded.get(name)} there, {identity.get(name)} here",
            hint=f"{how_to_go_on(different, identity)}, or remove it",
            code="other-run",
        )
    return content
