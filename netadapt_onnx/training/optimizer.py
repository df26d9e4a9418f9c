"""The optimizer of a recipe, and gradients clipped for its step."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch

from netadapt_onnx.errors import NetadaptError
from netadapt_onnx.training.recipe import WEIGHT_DECAY, Recipe
from netadapt_onnx.training.replicas import Fetch, Replicas
from netadapt_onnx.training.torch_graph import TorchGraph

MOMENTUM = 0.9
BETAS = (0.9, 0.999)
# Gradients are scaled down to this norm.
LARGEST_GRADIENT = 5.0


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
