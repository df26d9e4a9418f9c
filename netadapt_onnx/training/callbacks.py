"""Functions of the caller's that a training calls while it runs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

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
