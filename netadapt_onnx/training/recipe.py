"""How the weights move: optimizer, learning-rate schedule, weight decay. Imports no torch."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from netadapt_onnx.errors import NetadaptError

WEIGHT_DECAY = {"sgd": 5e-4, "adamw": 0.05}
# Gradients are scaled down to this norm.
LARGEST_GRADIENT = 5.0
WARM_UP_SHARE = 0.2
FINAL_RATE_SHARE = 1e-3


@dataclass(frozen=True)
class Recipe:
    """How the weights move. Raises NetadaptError for numbers out of range.

    Attributes:
        optimizer: SGD with Nesterov momentum, or AdamW.
        schedule: How the learning rate moves over the steps.
        weight_decay: None: the optimizer's usual, 5e-4 or 0.05.
    """

    optimizer: Literal["sgd", "adamw"] = "sgd"
    schedule: Literal["one-cycle", "cosine"] = "one-cycle"
    weight_decay: float | None = None

    def __post_init__(self) -> None:
        """Raise NetadaptError for numbers out of range."""
        checks = [
            ("--optimizer", self.optimizer, self.optimizer in WEIGHT_DECAY, "sgd or adamw"),
            ("--schedule", self.schedule, self.schedule in ("one-cycle", "cosine"), "one-cycle or cosine"),
            ("--weight-decay", self.weight_decay, 0 <= (self.weight_decay or 0.0) < math.inf, "at least 0"),
        ]
        for option, value, valid, expected in checks:
            if not valid:
                raise NetadaptError(f"{option} {value}: {expected}", code="usage")

    def rate(self, step: int, steps: int, lr: float) -> float:
        """The learning rate of a step.

        Args:
            step: The number of the step, from 0.
            steps: The steps of the whole training.
            lr: The highest learning rate.
        """
        return one_cycle(step, steps, lr) if self.schedule == "one-cycle" else cosine(step, steps, lr)


def one_cycle(step: int, steps: int, lr: float) -> float:
    """The learning rate of a step: linear up to `lr`, then half a cosine down (Smith & Topin, 2018)."""
    warm_up = max(1, round(WARM_UP_SHARE * steps))
    if step < warm_up:
        return lr * (step + 1) / (warm_up + 1)
    return cosine(step - warm_up, steps - warm_up, lr)


def cosine(step: int, steps: int, lr: float) -> float:
    """The learning rate of a step: half a cosine from `lr` down (Loshchilov & Hutter, ICLR 2017, without restarts)."""
    position = step / max(1, steps)
    return lr * (FINAL_RATE_SHARE + (1 - FINAL_RATE_SHARE) * 0.5 * (1 + math.cos(math.pi * position)))
