"""A training on disk: what was chosen for it, and where it stands. Written aside and renamed, so that it is whole."""

from __future__ import annotations

import os
import pickle
from pathlib import Path
from typing import Any

import torch

from netadapt_onnx.common.files import aside
from netadapt_onnx.errors import NetadaptError, one_line


class Checkpoint:
    """The file of one training. `identity` is all that decides its result besides the choices in its `content`."""

    def __init__(self, path: Path, identity: dict[str, Any]) -> None:
        self.path = path
        self._identity = identity
        self.content: dict[str, Any] = {}

    def open(self) -> bool:
        """Read what is there; whether anything is. Raises NetadaptError for another training's, or a broken one."""
        if not self.path.exists():
            return False
        try:
            content = torch.load(self.path, map_location="cpu", weights_only=True)
            recorded = dict(content["identity"])
        except (OSError, RuntimeError, EOFError, KeyError, TypeError, ValueError, pickle.UnpicklingError) as error:
            raise NetadaptError(
                f"{self.path} is not readable as a checkpoint: {one_line(error, 100)}",
                hint="remove it",
                code="corrupt-run",
            ) from error
        different = [name for name, value in self._identity.items() if recorded.get(name) != value]
        if different:
            name = different[0]
            raise NetadaptError(
                f"{self.path} belongs to another training: {name} is {recorded.get(name)} there, "
                f"{self._identity[name]} here",
                hint="repeat its arguments, or remove it",
                code="other-run",
            )
        self.content = content
        return True

    def put(self, **values: Any) -> None:
        """Record values (numbers, texts, lists, dicts and tensors); they are on the disk when this returns."""
        self.content = {**self.content, **values, "identity": self._identity}
        with aside(self.path) as temporary, temporary.open("wb") as file:
            torch.save(self.content, file)
            file.flush()
            os.fsync(file.fileno())

    def remove(self) -> None:
        """The training is done."""
        self.path.unlink(missing_ok=True)
