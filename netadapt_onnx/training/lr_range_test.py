"""The learning-rate range test: a short run in which the rate rises until the loss does (Smith, WACV 2017)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from netadapt_onnx.common.progress import Steps, stage
from netadapt_onnx.training.batch_plan import BatchPlan
from netadapt_onnx.training.recipe import DivergedError, Recipe, clipped_gradients, optimizer
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
    """A range test's outcome.

    Attributes:
        rates: The learning rates of its steps.
        losses: The smoothed loss after each.
        chosen: The highest learning rate for a training.
    """

    rates: tuple[float, ...]
    losses: tuple[float, ...]
    chosen: float


def range_test(replicas: Replicas, plan: BatchPlan, recipe: Recipe, usual: float) -> RangeTest:
    """Run a step at each of 48 learning rates around the usual one.

    Chosen is a quarter of the rate at which the smoothed loss is smallest, at most ten times the usual one: beyond that
    a loss that still falls says little, for a run of 48 steps does not show what hundreds of such steps would do.

    Args:
        replicas: The network; its weights are as before afterwards.
        plan: The batches.
        recipe: How the weights move.
        usual: The usual learning rate of this kind of network.
    """
    before = replicas.main.state()
    with stage("looking for a learning rate", STEPS) as report:
        rates, losses = _smoothed_losses(replicas, plan, recipe, usual, report)
    replicas.restore(before)
    best = rates[int(np.argmin(losses))] if losses else usual
    return RangeTest(tuple(rates), tuple(losses), min(best / MARGIN, 10 * usual))


def _smoothed_losses(
    replicas: Replicas, plan: BatchPlan, recipe: Recipe, usual: float, report: Steps
) -> tuple[list[float], list[float]]:
    """Learning rates, and the smoothed loss after a step at each."""
    moving = optimizer(replicas.main, recipe)
    rates: list[float] = []
    losses: list[float] = []
    average, epoch, rate = 0.0, 0, 0.0
    batches = plan.batches(0)
    for step in range(STEPS):
        if not batches:
            epoch += 1
            batches = plan.batches(epoch)
        try:
            loss = clipped_gradients(replicas, plan.fetch(step), batches.pop(0))
        except DivergedError:
            break
        if step:  # the loss that the rate of the step before has led to
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
