"""How the weights move: optimizer, learning-rate schedule, weight decay, and gradients clipped for a step."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch

from netadapt_onnx.errors import NetadaptError
from netadapt_onnx.training.replicas import Fetch, Replicas
from netadapt_onnx.training.torch_graph import TorchGraph

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


MOMENTUM = 0.9
BETAS = (0.9, 0.999)


class DivergedError(Exception):
    """The loss or a gradient is no longer a finite number."""


def optimizer(graph: TorchGraph, recipe: Recipe) -> torch.optim.Optimizer:
    """SGD (Nesterov) or AdamW at a learning rate of 0; weight decay spares biases and normalisations.

    Pulling those to zero only hurts.

    Raises:
        NetadaptError: The graph has no weights.
    """
    decay = WEIGHT_DECAY[recipe.optimizer] if recipe.weight_decay is None else recipe.weight_decay
    weights = graph.weights
    decayed = [p for name, p in weights.items() if graph.kinds[name] == "weight"]
    spared = [p for name, p in weights.items() if graph.kinds[name] != "weight"]
    groups: list[dict[str, Any]] = [
        {"params": decayed, "weight_decay": decay},
        {"params": spared, "weight_decay": 0.0},
    ]
    groups = [group for group in groups if group["params"]]
    if not groups:
        raise NetadaptError("the model has no weights to train", code="unsupported")
    if recipe.optimizer == "adamw":
        return torch.optim.AdamW(groups, lr=0.0, betas=BETAS)
    return torch.optim.SGD(groups, lr=0.0, momentum=MOMENTUM, nesterov=True)


def clipped_gradients(replicas: Replicas, fetch: Fetch, rows: np.ndarray) -> float:
    """Leave a batch's mean gradient, clipped to a norm of 5, in the parameters of `replicas.main`.

    Args:
        replicas: The network that is trained.
        fetch: Reads inputs and labels of some rows.
        rows: Numbers of the batch's samples in the training split.

    Returns:
        The batch's mean loss.

    Raises:
        DivergedError: The loss or the gradient is no longer finite.
    """
    loss = replicas.gradients(fetch, rows)
    norm = torch.nn.utils.clip_grad_norm_(replicas.main.parameters(), LARGEST_GRADIENT)
    if not math.isfinite(loss) or not math.isfinite(float(norm)):
        raise DivergedError
    return loss
