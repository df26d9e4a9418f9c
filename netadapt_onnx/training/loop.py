"""The steps of one training, from a state that can be saved after each of them."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch

from netadapt_onnx.common.progress import Steps, steps
from netadapt_onnx.training.recipe import Recipe, optimiser
from netadapt_onnx.training.replicas import Fetch, Replicas

# How often a training is saved besides the ends of epochs: what a kill costs at most.
SAVED_EVERY_S = 20.0
# A pace is known after so many steps. A schedule is shortened where it is to have less than this share of its steps.
TIMED_STEPS, CLEARLY_FEWER = 4, 0.95

Progress = Callable[[int, int, float], None]
Save = Callable[[dict[str, Any]], None]
Told = Callable[["Epoch"], None]


@dataclass(frozen=True)
class Epoch:
    """One pass over the training data (or what was left of the steps): its number, steps done so far, mean loss."""

    epoch: int
    steps: int
    loss: float
    lr: float
    seconds: float


@dataclass(frozen=True)
class Schedule:
    """What is trained on: the row numbers of an epoch's batches, and the samples of a step.

    With `time_left`, in seconds, there are as many steps as fit.
    """

    steps: int
    batches: Callable[[int], list[np.ndarray]]
    fetch: Callable[[int], Fetch]
    time_left: Callable[[], float] | None = None


class Pace:
    """How many steps the time left has room for, as fast as those since now (after `done`) are taken."""

    def __init__(self, time_left: Callable[[], float], done: int) -> None:
        self._time_left = time_left
        self._first = done
        self.left_s = time_left()

    def fitting(self, done: int, planned: int) -> int | None:
        """The steps of a schedule in all, where they are clearly fewer than planned; None if it may stay."""
        left_s = self._time_left()
        if left_s == math.inf:
            return None
        if left_s <= 0:
            return done
        taken = done - self._first
        able = done + int(left_s * taken / max(self.left_s - left_s, 1e-9))
        return able if taken >= TIMED_STEPS and able < CLEARLY_FEWER * planned else None


class DivergedError(Exception):
    """The loss or a gradient is no longer a number."""


class Loop:
    """One attempt at a training."""

    def __init__(self, replicas: Replicas, recipe: Recipe, lr: float) -> None:
        self._replicas = replicas
        self._recipe = recipe
        self._lr = lr
        self._optimiser = optimiser(replicas.main, recipe)
        self._best, self._best_loss = replicas.main.state(), math.inf
        self._losses: list[float] = []
        self._done = 0
        self._steps: int | None = None  # where time shortens the schedule
        self._seconds = 0.0
        self.history: list[Epoch] = []

    def run(
        self, schedule: Schedule, progress: Progress | None = None, save: Save | None = None, told: Told | None = None
    ) -> None:
        """Take all steps that are left. Raises DivergedError with the best weights so far put back.

        `save` is called now and then with a state that `resume` goes on from, to the same bits; `told` gets every
        epoch, those before a resume too.
        """
        for epoch in self.history:
            if told is not None:
                told(epoch)
        pace = None if schedule.time_left is None else Pace(schedule.time_left, self._done)
        with steps("training", schedule.steps, None if pace is None else pace.left_s) as report:
            self._run(schedule, pace, report, progress, save, told)
        self._replicas.restore(self._replicas.main.state())

    def _run(
        self,
        schedule: Schedule,
        pace: Pace | None,
        report: Steps,
        progress: Progress | None,
        save: Save | None,
        told: Told | None,
    ) -> None:
        began = time.monotonic() - self._seconds
        saved = time.monotonic()
        report(self._done)
        while self._losses or self._done < self._planned(schedule):
            batches = schedule.batches(len(self.history))
            first = self._done - len(self._losses)  # of this epoch
            for rows in batches[len(self._losses) : self._planned(schedule) - first]:
                self._step(schedule, rows)
                report(self._done, f"loss {self._losses[-1]:.3f}")
                if progress is not None:
                    progress(self._done, self._planned(schedule), self._losses[-1])
                self._seconds = time.monotonic() - began
                shorter = None if pace is None else pace.fitting(self._done, self._planned(schedule))
                if shorter is not None:  # saved before it decides anything: a killed run goes on alike
                    self._steps = shorter
                if save is not None and (shorter is not None or time.monotonic() - saved > SAVED_EVERY_S):
                    save(self._state())
                    saved = time.monotonic()
                if self._done >= self._planned(schedule):
                    break
            self._end_epoch(self._recipe.rate(self._done - 1, self._planned(schedule), self._lr))
            if told is not None:
                told(self.history[-1])
            if save is not None:
                save(self._state())
                saved = time.monotonic()

    def resume(self, state: dict[str, Any]) -> None:
        """Go on from what `save` was given."""
        for graph, own in zip(self._replicas.graphs, state["replicas"], strict=True):
            graph.restore(own)
        self._optimiser.load_state_dict(state["optimiser"])
        self._best, self._best_loss = state["best"], state["best_loss"]
        self._losses, self._done, self._seconds = list(state["losses"]), state["done"], state["seconds"]
        self._steps = state.get("steps")
        self.history = [Epoch(**epoch) for epoch in state["history"]]

    def _state(self) -> dict[str, Any]:
        return {
            "replicas": [graph.state() for graph in self._replicas.graphs],
            "optimiser": self._optimiser.state_dict(),
            "best": self._best,
            "best_loss": self._best_loss,
            "losses": self._losses,
            "done": self._done,
            "steps": self._steps,
            "seconds": self._seconds,
            "history": [asdict(epoch) for epoch in self.history],
        }

    def _planned(self, schedule: Schedule) -> int:
        return schedule.steps if self._steps is None else self._steps

    def share(self, schedule: Schedule) -> float:
        """The share of the schedule's steps that there is time for."""
        return self._planned(schedule) / max(1, schedule.steps)

    def _step(self, schedule: Schedule, rows: np.ndarray) -> None:
        rate = self._recipe.rate(self._done, self._planned(schedule), self._lr)
        for group in self._optimiser.param_groups:
            group["lr"] = rate
        loss = self._replicas.gradients(schedule.fetch(self._done), rows)
        norm = torch.nn.utils.clip_grad_norm_(self._replicas.main.parameters(), self._recipe.largest_gradient)
        if not math.isfinite(loss) or not math.isfinite(float(norm)):
            self._replicas.restore(self._best)
            raise DivergedError
        self._optimiser.step()
        self._losses.append(loss)
        self._done += 1

    def _end_epoch(self, rate: float) -> None:
        self._replicas.average_statistics()
        mean = float(np.mean(self._losses))
        self._losses = []
        if mean <= self._best_loss:
            self._best, self._best_loss = self._replicas.main.state(), mean
        self.history.append(Epoch(len(self.history) + 1, self._done, mean, rate, self._seconds))
