"""The log of a training: a JSON line per epoch, and TensorBoard's event files on request."""

from __future__ import annotations

from pathlib import Path
from types import TracebackType
from typing import Any, Self

import msgspec

from netadapt_onnx.common.json_output import json_bytes
from netadapt_onnx.errors import NetadaptError
from netadapt_onnx.training.callbacks import Epoch


class TrainingLog:
    """A context manager that owns the file; a resumed training writes it again from its first epoch."""

    def __init__(self, path: Path, tensorboard: Path | None = None) -> None:
        """Open the file.

        Args:
            path: The file.
            tensorboard: A folder for event files; None: there are none.

        Raises:
            NetadaptError: TensorBoard is not installed (`missing-extra`).
        """
        self._writer: Any = None
        if tensorboard is not None:
            try:
                from torch.utils.tensorboard import SummaryWriter
            except ImportError as error:
                raise NetadaptError(
                    "--tensorboard needs TensorBoard",
                    hint="pip install 'netadapt-onnx[tensorboard]'",
                    code="missing-extra",
                ) from error
            self._writer = SummaryWriter(str(tensorboard), purge_step=0)
        self._file = path.open("wb")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()
        if self._writer is not None:
            self._writer.close()

    def epoch(self, done: Epoch) -> None:
        """Loss and learning rate."""
        self._file.write(json_bytes(msgspec.to_builtins(done)) + b"\n")
        self._file.flush()
        if self._writer is not None:
            for name, value in (("loss", done.loss), ("learning rate", done.lr)):
                self._writer.add_scalar(name, value, done.steps)
            self._writer.flush()
