"""The optimizer of a recipe, its gradient clipping, and the average of the weights."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from netadapt_onnx.errors import NetadaptError
from netadapt_onnx.training.recipe import WEIGHT_DECAY, Recipe
from netadapt_onnx.training.replicas import Fetch, Replicas
from netadapt_onnx.training.torch_graph import TorchGraph

MOMENTUM = 0.9
BETAS = (0.9, 0.999)
# Gradients are scaled down to this norm. Nobody chooses it: an option for it would be one more that nobody measured.
LARGEST_GRADIENT = 5.0
# A young average must not remember the start: the decay is at most (1 + t) / (10 + t).
_EMA_DELAY = 10


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


class WeightAverage:
    """An exponential moving average of weights and running statistics, by initializer name.

    `torch.optim.swa_utils.AveragedModel` copies the model instead of averaging at its first step, and has one decay.
    """

    def __init__(self, decay: float, state: dict[str, Tensor], updates: int = 0) -> None:
        self.state = state
        self.updates = updates
        self._decay = decay

    def add(self, state: Mapping[str, Tensor]) -> None:
        """Move towards `state`, by at least 10 / (10 + t) of the way at step t."""
        self.updates += 1
        keep = min(self._decay, self.updates / (self.updates + _EMA_DELAY))
        for name, value in self.state.items():
            value.lerp_(state[name].detach(), 1 - keep)
