"""Training within a time: as many steps as fit, the rate falling to the end, to the same bits if it is killed."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from netadapt_onnx.training.callbacks import TrainingCallbacks
from netadapt_onnx.training.options import TrainingOptions
from netadapt_onnx.training.replicas import Replicas
from netadapt_onnx.training.settings import Settings
from netadapt_onnx.training.trainer import TrainResult, train
from training_cases import FLOAT, KilledError, dataset, killed_at, network


class Hourglass:
    """Time that runs while steps are taken: `each` seconds a step."""

    def __init__(self, seconds: float, each: float = 1.0) -> None:
        self.left_s = seconds
        self.each = each
        self.steps = 0

    def time_left(self) -> float:
        return self.left_s

    def step(self, done: int, total: int, loss: float) -> None:
        self.steps += 1
        self.left_s -= self.each


def trained_within(glass: Hourglass, step: Callable[[int, int, float], None]) -> TrainResult:
    """Three epochs of five steps, in the time that the glass has."""
    return train(
        network(1),
        dataset(),
        TrainingOptions(epochs=3, batch_size=64, settings=FLOAT),
        teacher=network(),
        callbacks=TrainingCallbacks(progress=step, time_left=glass.time_left),
    )


@pytest.mark.parametrize(("seconds", "steps"), [(40.0, 15), (15.0, 15), (11.0, 11), (6.5, 6), (2.0, 2)])
def test_a_training_takes_the_steps_that_there_is_time_for_and_its_rate_falls_to_the_end(
    seconds: float, steps: int
) -> None:
    """Three epochs of five steps, a second each."""
    glass = Hourglass(seconds)
    result = trained_within(glass, glass.step)
    assert glass.steps == result.history[-1].steps
    assert abs(glass.steps - steps) <= 1 and glass.left_s >= 0
    assert result.share == pytest.approx(glass.steps / 15)
    assert steps < 4 or result.history[-1].lr < 0.2 * result.lr


def test_what_the_original_is_asked_before_the_first_step_is_not_the_pace_of_the_steps(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It takes ten of 30 seconds: 15 steps fit into the rest."""
    glass, ahead = Hourglass(30.0), Replicas.ahead

    def slow(replicas: Replicas, rows: np.ndarray) -> None:
        glass.left_s -= 10.0 if not glass.steps else 0.0
        ahead(replicas, rows)

    monkeypatch.setattr(Replicas, "ahead", slow)
    result = trained_within(glass, glass.step)
    assert (glass.steps, result.share) == (15, 1.0)


def test_a_training_that_became_slow_is_shortened_again() -> None:
    glass = Hourglass(30.0)

    def slower(done: int, total: int, loss: float) -> None:
        glass.each = 1.0 if done < 6 else 8.0
        glass.step(done, total, loss)

    result = trained_within(glass, slower)
    assert glass.steps < 15 and glass.left_s > -8.0
    assert result.share == pytest.approx(glass.steps / 15)


@pytest.mark.parametrize("stop", [5, 7, 9])
def test_a_shortened_training_that_is_killed_goes_on_to_the_same_bits(stop: int, tmp_path: Path) -> None:
    """The decision is on the disk before a step follows it."""

    def run(folder: str, glass: Hourglass | None, stop: int | None) -> TrainResult:
        (tmp_path / folder).mkdir(exist_ok=True)

        def progress(done: int, total: int, loss: float) -> None:
            if glass is not None:
                glass.step(done, total, loss)
            killed_at(stop)(done, total, loss)

        return train(
            network(1),
            dataset(),
            TrainingOptions(epochs=3, batch_size=64, settings=Settings("float32", True, 2)),
            teacher=network(),
            checkpoint=tmp_path / folder / "c",
            callbacks=TrainingCallbacks(progress=progress, time_left=None if glass is None else glass.time_left),
        )

    uninterrupted = run("whole", Hourglass(9.5), None)
    assert uninterrupted.history[-1].steps == 9
    with pytest.raises(KilledError):
        run("killed", Hourglass(9.5), stop)
    again = run("killed", None, None)
    assert again.proto.SerializeToString() == uninterrupted.proto.SerializeToString()
    assert [epoch.steps for epoch in again.history] == [epoch.steps for epoch in uninterrupted.history]
