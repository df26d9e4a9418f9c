"""Which learning rate? A short run in which it rises from far too small until the loss does (Smith, WACV 2017)."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch

from netadapt_onnx.common.progress import Steps, stage
from netadapt_onnx.training.loop import Schedule
from netadapt_onnx.training.recipe import Recipe, optimiser
from netadapt_onnx.training.replicas import Replicas

STEPS = 48
# From a thousandth of the usual rate to a hundred times it.
LOWEST, HIGHEST = 1e-3, 1e2
SMOOTHING = 0.8
# The loss is out of control when it is so many times its smallest value.
OUT_OF_CONTROL = 3.0
# The cycle's highest rate: where the loss is smallest it is about to rise.
MARGIN = 4.0


@dataclass(frozen=True)
class RangeTest:
    """Rates tried, the smoothed loss after each, and the rate chosen."""

    rates: tuple[float, ...]
    losses: tuple[float, ...]
    chosen: float


def range_test(replicas: Replicas, recipe: Recipe, schedule: Schedule, usual: float) -> RangeTest:
    """Try rates around the `usual` one, a step each; the weights are as before afterwards.

    Chosen is a quarter of the rate at which the smoothed loss is smallest, at most ten times the usual one: beyond that
    a loss that still falls says little, for a run of 48 steps does not show what hundreds of such steps would do.
    """
    before = replicas.main.state()
    with stage("looking for a learning rate", STEPS) as report:
        rates, losses = _tried(replicas, recipe, schedule, usual, report)
    replicas.restore(before)
    best = rates[int(np.argmin(losses))] if losses else usual
    return RangeTest(tuple(rates), tuple(losses), min(best / MARGIN, 10 * usual))


def _tried(
    replicas: Replicas, recipe: Recipe, schedule: Schedule, usual: float, report: Steps
) -> tuple[list[float], list[float]]:
    """Rates, and the smoothed losses after each."""
    moving = optimiser(replicas.main, recipe)
    rates: list[float] = []
    losses: list[float] = []
    average, epoch, rate = 0.0, 0, 0.0
    batches = schedule.batches(0)
    for step in range(STEPS):
        if not batches:
            epoch += 1
            batches = schedule.batches(epoch)
        loss = replicas.gradients(schedule.fetch(step), batches.pop(0))
        norm = torch.nn.utils.clip_grad_norm_(replicas.main.parameters(), recipe.largest_gradient)
        if not math.isfinite(loss) or not math.isfinite(float(norm)):
            break
        if step:  # the loss that the rate before has led to
            average = SMOOTHING * average + (1 - SMOOTHING) * loss
            smooth = average / (1 - SMOOTHING**step)
            rates.append(rate)
            losses.append(smooth)
            if smooth > OUT_OF_CONTROL * min(losses):
                break
        rate = usual * LOWEST * (HIGHEST / LOWEST) ** (step / (STEPS - 1))
        for group in moving.param_groups:
            group["lr"] = rate
        moving.step()
        report(step + 1)
    return rates, losses
