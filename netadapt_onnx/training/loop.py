"""The steps of one training, from a state that can be saved after each of them."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import asdict
from functools import partial
from typing import Any

import numpy as np

from netadapt_onnx.common.progress import Steps, steps
from netadapt_onnx.training.averaging import AveragedWeights
from netadapt_onnx.training.batch_plan import BatchPlan
from netadapt_onnx.training.callbacks import Epoch, TrainingCallbacks
from netadapt_onnx.training.recipe import DivergedError, Recipe, clipped_gradients, optimizer
from netadapt_onnx.training.replicas import Replicas
from netadapt_onnx.training.validation import BestWeights, State

# How often a training is saved besides the ends of epochs: what a kill costs at most.
SAVED_EVERY_S = 20.0
# The pace is measured over so many steps. A schedule is shortened where less than this share of its steps would fit.
TIMED_STEPS, CLEARLY_FEWER = 4, 0.95

Save = Callable[[dict[str, Any]], None]


class Pace:
    """How many steps fit into the time, at the pace of those since this object was made, after `done` steps."""

    def __init__(self, time_left: Callable[[], float], done: int) -> None:
        self._time_left = time_left
        self._first = done
        self.left_s = time_left()
        self._apart_s = 0.0

    def leave_out(self, work: Callable[[], None]) -> None:
        """Do what steps need once, which says nothing of how long they take."""
        left_s = self._time_left()
        work()
        self._apart_s += 0.0 if left_s == math.inf else left_s - self._time_left()

    def fitting(self, done: int, planned: int) -> int | None:
        """The steps of a schedule in all, where they are clearly fewer than planned; None if it may stay."""
        left_s = self._time_left()
        if left_s == math.inf:
            return None
        if left_s <= 0:
            return done
        timed = done - self._first
        able = done + int(left_s * timed / max(self.left_s - left_s - self._apart_s, 1e-9))
        return able if timed >= TIMED_STEPS and able < CLEARLY_FEWER * planned else None


class Loop:
    """One attempt at a training: all steps of a plan at one highest learning rate.

    `history` are its epochs so far.
    """

    def __init__(
        self,
        replicas: Replicas,
        plan: BatchPlan,
        recipe: Recipe,
        lr: float,
        *,
        averages: bool = False,
        best: BestWeights | None = None,
    ) -> None:
        """Prepare a training from the weights that `replicas` have.

        Args:
            replicas: The network; its weights move.
            plan: The batches.
            recipe: How the weights move.
            lr: The highest learning rate.
            averages: Whether the result is an average of the weights.
            best: Evaluates the training now and then, keeps its best state and ends it; None: it is not evaluated.
        """
        self._replicas = replicas
        self._plan = plan
        self._recipe = recipe
        self._lr = lr
        self._optimizer = optimizer(replicas.main, recipe)
        self._average = AveragedWeights(replicas.main.state()) if averages else None
        self._best = best
        self._lowest_loss, self._lowest_loss_state = math.inf, replicas.main.state()
        self._losses: list[float] = []  # of this epoch
        self._done = 0
        self._planned = plan.steps  # fewer where time shortens the schedule
        self._seconds = 0.0
        self._saved_s = 0.0
        self.history: list[Epoch] = []

    def run(self, callbacks: TrainingCallbacks, save: Save | None = None) -> None:
        """Take the steps that remain, all of them or as many as pay; `result` is then what they came to.

        Args:
            callbacks: Who follows the training, and how much time it has.
            save: Called now and then with a state that `resume` goes on from, to the same bits.

        Raises:
            DivergedError: The replicas have the weights of the epoch with the lowest loss again.
        """
        for epoch in self.history:
            _report_epoch(callbacks, epoch)
        pace = None if callbacks.time_left is None else Pace(callbacks.time_left, self._done)
        began = time.monotonic() - self._seconds
        self._saved_s = time.monotonic()
        with steps("training", self._plan.steps, None if pace is None else pace.left_s) as report:
            report(self._done)
            while self._losses or not self._is_complete:
                self._run_epoch(callbacks, pace, report, save, began)
                self._end_epoch()
                _report_epoch(callbacks, self.history[-1])
                self._save(save)

    def _run_epoch(
        self, callbacks: TrainingCallbacks, pace: Pace | None, report: Steps, save: Save | None, began: float
    ) -> None:
        """Take the steps of the current epoch that remain."""
        first = self._done - len(self._losses)
        batches = self._plan.batches(len(self.history))[len(self._losses) : self._planned - first]
        if batches and not self._is_complete:
            ahead = partial(self._replicas.ahead, np.concatenate(batches))
            ahead() if pace is None else pace.leave_out(ahead)
        for rows in batches:
            if self._is_complete:
                break
            self._step(rows)
            report(self._done, f"loss {self._losses[-1]:.3f}")
            if callbacks.progress is not None:
                callbacks.progress(self._done, self._planned, self._losses[-1])
            self._seconds = time.monotonic() - began
            fewer = None if pace is None else pace.fitting(self._done, self._planned)
            if fewer is not None:
                self._planned = fewer
            evaluated = self._best is not None and self._best.evaluate(self._done, self._planned, self._current)
            # A shorter schedule and an evaluation are saved before they decide anything: a killed run goes on alike.
            if fewer is not None or evaluated or time.monotonic() - self._saved_s > SAVED_EVERY_S:
                self._save(save)

    def resume(self, state: dict[str, Any]) -> None:
        """Go on from a state that `save` was called with."""
        for graph, weights in zip(self._replicas.graphs, state["replicas"], strict=True):
            graph.restore(weights)
        self._optimizer.load_state_dict(state["optimiser"])
        self._lowest_loss_state, self._lowest_loss = state["best"], state["best_loss"]
        self._losses, self._done, self._seconds = list(state["losses"]), state["done"], state["seconds"]
        if state.get("steps") is not None and state.get("of", self._plan.steps) == self._plan.steps:
            self._planned = state["steps"]
        if self._average is not None:
            self._average.resume(state["average"], state["done"])
        if self._best is not None:
            self._best.resume(state["kept"])
        self.history = [Epoch(**epoch) for epoch in state["history"]]

    def _save(self, save: Save | None) -> None:
        if save is not None:
            save(self._state())
            self._saved_s = time.monotonic()

    def _state(self) -> dict[str, Any]:
        return {
            "replicas": [graph.state() for graph in self._replicas.graphs],
            "optimiser": self._optimizer.state_dict(),
            "best": self._lowest_loss_state,
            "best_loss": self._lowest_loss,
            "losses": self._losses,
            "done": self._done,
            "steps": None if self._planned == self._plan.steps else self._planned,
            "of": self._plan.steps,
            "average": None if self._average is None else self._average.state,
            "kept": None if self._best is None else self._best.saved(),
            "seconds": self._seconds,
            "history": [asdict(epoch) for epoch in self.history],
        }

    @property
    def share(self) -> float:
        """The share of the plan's steps that there was time for, in [0, 1]."""
        return self._planned / max(1, self._plan.steps)

    @property
    def result(self) -> State | None:
        """The weights and statistics that the training came to, by name; None: those that it began with are best."""
        return self._current if self._best is None else self._best.state

    @property
    def _current(self) -> State:
        return self._replicas.main.state() if self._average is None else self._average.state

    @property
    def _is_complete(self) -> bool:
        return self._done >= self._planned or (self._best is not None and self._best.is_over)

    def _step(self, rows: np.ndarray) -> None:
        rate = self._recipe.rate(self._done, self._planned, self._lr)
        for group in self._optimizer.param_groups:
            group["lr"] = rate
        try:
            loss = clipped_gradients(self._replicas, self._plan.fetch(self._done), rows)
        except DivergedError:
            self._replicas.restore(self._lowest_loss_state)
            raise
        self._optimizer.step()
        if self._average is not None:
            self._average.update(self._replicas.main.state())
        self._losses.append(loss)
        self._done += 1

    def _end_epoch(self) -> None:
        rate = self._recipe.rate(self._done - 1, self._planned, self._lr)
        self._replicas.average_statistics()
        mean = float(np.mean(self._losses))
        self._losses = []
        if mean <= self._lowest_loss:
            self._lowest_loss_state, self._lowest_loss = self._replicas.main.state(), mean
        self.history.append(Epoch(len(self.history) + 1, self._done, mean, rate, self._seconds))


def _report_epoch(callbacks: TrainingCallbacks, epoch: Epoch) -> None:
    if callbacks.on_epoch is not None:
        callbacks.on_epoch(epoch)
