"""Functions of the caller's that a training calls while it runs, and the log of a training: a JSON line per epoch."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import msgspec

from netadapt_onnx.common.json_output import json_bytes
from netadapt_onnx.errors import NetadaptError

Progress = Callable[[int, int, float], None]


@dataclass(frozen=True)
class Epoch:
    """One pass over the training data, or over what the steps leave of it.

    Attributes:
        epoch: Its number, from 1.
        steps: Steps of the training up to its end.
        loss: The mean over its batches.
        lr: The learning rate of its last step.
        seconds: What the training took up to its end.
    """

    epoch: int
    steps: int
    loss: float
    lr: float
    seconds: float


@dataclass(frozen=True)
class TrainingCallbacks:
    """Functions of the caller's; those that are None are not called.

    Attributes:
        progress: Called as `progress(step, steps, loss)` after every step.
        on_epoch: Called with every epoch, those before a resume too.
        log: Called with each line that a user should read.
        time_left: The seconds that the training may still take: the schedule has as many steps as fit, and its learning
            rate still falls to the end.
    """

    progress: Progress | None = None
    on_epoch: Callable[[Epoch], None] | None = None
    log: Callable[[str], None] | None = None
    time_left: Callable[[], float] | None = None


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
