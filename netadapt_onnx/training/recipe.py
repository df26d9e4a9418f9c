"""How weights move: optimiser, schedule, decay, clipping."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal

import torch

from netadapt_onnx.errors import NetadaptError
from netadapt_onnx.training.torch_graph import TorchGraph

MOMENTUM = 0.9
BETAS = (0.9, 0.999)
WEIGHT_DECAY = {"sgd": 5e-4, "adamw": 0.05}
# AdamW's steps are as long as its rate, whatever the gradient; SGD's usual rates would throw every weight away.
ADAMW_SHARE = 0.02
LARGEST_GRADIENT = 5.0
WARM_UP_SHARE = 0.2
FINAL_RATE_SHARE = 1e-3


@dataclass(frozen=True)
class Recipe:
    """`weight_decay` None: the optimiser's usual."""

    optimiser: Literal["sgd", "adamw"] = "sgd"
    schedule: Literal["one-cycle", "cosine"] = "one-cycle"
    weight_decay: float | None = None
    largest_gradient: float = LARGEST_GRADIENT

    def __post_init__(self) -> None:
        """Raise NetadaptError for numbers that mean nothing."""
        wrong = [
            ("--optimizer", self.optimiser, self.optimiser in WEIGHT_DECAY, "sgd or adamw"),
            ("--schedule", self.schedule, self.schedule in ("one-cycle", "cosine"), "one-cycle or cosine"),
            ("--weight-decay", self.weight_decay, 0 <= (self.weight_decay or 0.0) < math.inf, "at least 0"),
            ("--clip", self.largest_gradient, 0 < self.largest_gradient <= math.inf, "above 0"),
        ]
        for option, value, good, expected in wrong:
            if not good:
                raise NetadaptError(f"{option} {value}: {expected}", code="usage")

    def rate(self, step: int, steps: int, lr: float) -> float:
        """The learning rate of a step."""
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


def optimiser(graph: TorchGraph, recipe: Recipe) -> torch.optim.Optimizer:
    """SGD (Nesterov) or AdamW; weight decay spares biases and normalisations: pulling those to zero only hurts.

    Raises NetadaptError if the graph has no weights.
    """
    decay = WEIGHT_DECAY[recipe.optimiser] if recipe.weight_decay is None else recipe.weight_decay
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
    if recipe.optimiser == "adamw":
        return torch.optim.AdamW(groups, lr=0.0, betas=BETAS)
    return torch.optim.SGD(groups, lr=0.0, momentum=MOMENTUM, nesterov=True)
