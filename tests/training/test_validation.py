"""A training is never below where it began on held-out data, ends where it no longer pays, and resumes to the same."""

from __future__ import annotations

from pathlib import Path

import onnx
import pytest

from netadapt_onnx.data.evaluate import accuracy
from netadapt_onnx.training.callbacks import TrainingCallbacks
from netadapt_onnx.training.options import TrainingOptions
from netadapt_onnx.training.settings import Settings
from netadapt_onnx.training.trainer import TrainResult, train
from netadapt_onnx.training.validation import (
    EVALUATIONS,
    Evaluation,
    Validation,
    affordable_evaluations,
    best_of,
    outcome,
)
from netadapt_onnx.training.views import Views
from training_cases import FLOAT, KilledError, dataset, killed_at, network


class Scores:
    """Held-out data that like a training as often as they are told to, in the order of its evaluations."""

    def __init__(self, *values: float) -> None:
        self.values = list(values)
        self.models: list[bytes] = []

    def __call__(self, proto: onnx.ModelProto) -> float:
        self.models.append(proto.SerializeToString(deterministic=True))
        return self.values[len(self.models) - 1]


def trained(validation: Validation | None, steps: int = 80) -> TrainResult:
    options = TrainingOptions(steps=steps, batch_size=32, averages=True, settings=FLOAT)
    return train(network(1), dataset(128), options, teacher=network(), validation=validation)


def test_the_state_that_held_out_data_like_best_is_the_result() -> None:
    scores = Scores(0.4, 0.6, 0.5, 0.6, 0.3, 0.1, 0.1, 0.1)
    result = trained(Validation(scores, start=0.5))
    assert [one.step for one in result.evaluations] == [0, 10, 20, 30, 40, 50, 60, 70, 80]
    assert best_of(result.evaluations) == Evaluation(40, 0.6)  # the last of equals has learnt more
    assert result.proto.SerializeToString(deterministic=True) == scores.models[3]


def test_a_training_that_only_loses_returns_the_very_model_that_it_began_with() -> None:
    model, options = network(1), TrainingOptions(steps=30, batch_size=32, averages=True, settings=FLOAT)
    scores = Scores(0.4, float("nan"), 0.49)
    result = train(model, dataset(128), options, teacher=network(), validation=Validation(scores, 0.5))
    assert result.proto is model
    assert (
        outcome(result.evaluations) == "50.0% before, 40.0% after 10 steps, nan% after 20 steps, 49.0% after 30 steps"
    )


def test_a_training_is_never_below_where_it_began() -> None:
    data = dataset(32)
    for seed in range(3):
        student = network(seed)
        before = accuracy(student, data.val).value
        options = TrainingOptions(steps=30, batch_size=16, lr=0.3, seed=seed, averages=True, settings=FLOAT)
        validation = Validation(lambda proto: accuracy(proto, data.val).value, before)
        result = train(student, data, options, validation=validation)
        assert accuracy(result.proto, data.val).value >= before


def test_a_training_ends_where_it_no_longer_pays_and_one_of_a_given_length_does_not() -> None:
    falling = (0.7, 0.6, 0.6, 0.6, 0.6, 0.6, 0.6, 0.6)
    impatient = trained(Validation(Scores(*falling), 0.5, patience=3))
    assert [one.step for one in impatient.evaluations] == [0, 10, 20, 30, 40]
    assert impatient.history[-1].steps == 40
    assert impatient.share == 1.0  # it was not for want of time
    assert len(trained(Validation(Scores(*falling), 0.5)).evaluations) == 9


def test_without_held_out_data_the_last_state_is_the_result() -> None:
    scores = Scores(*(0.1 * i for i in range(8)))
    evaluated, plain = trained(Validation(scores, 0.0)), trained(None)
    assert plain.evaluations == ()
    assert plain.proto.SerializeToString(deterministic=True) == scores.models[-1]
    assert plain.proto.SerializeToString() == evaluated.proto.SerializeToString()


def test_running_statistics_stay_where_they_are_to() -> None:
    def statistics(proto: onnx.ModelProto) -> list[bytes]:
        names = {name for node in proto.graph.node if node.op_type == "BatchNormalization" for name in node.input[3:]}
        return [t.raw_data for t in proto.graph.initializer if t.name in names]

    before = network(1)
    for fixes in (False, True):
        options = TrainingOptions(steps=3, batch_size=32, fixes_statistics=fixes, settings=FLOAT)
        after = train(before, dataset(128), options, teacher=network()).proto
        assert (statistics(after) == statistics(before)) is fixes
        assert after.SerializeToString() != before.SerializeToString()


@pytest.mark.parametrize("replicas", [1, 2])
def test_a_training_that_is_killed_around_an_evaluation_goes_on_to_the_same_bits(
    replicas: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = dataset(128)

    def run(folder: str, *, step: int | None = None, evaluation: int | None = None) -> TrainResult:
        evaluations = 0

        def score(proto: onnx.ModelProto) -> float:
            nonlocal evaluations
            evaluations += 1
            if evaluations == evaluation:
                raise KilledError
            return accuracy(proto, data.val).value

        return train(
            network(1),
            data,
            TrainingOptions(steps=45, batch_size=32, averages=True, settings=Settings("float32", True, replicas)),
            teacher=network(),
            checkpoint=tmp_path / folder,
            callbacks=TrainingCallbacks(progress=killed_at(step)),
            validation=Validation(score, 0.2, patience=4),
        )

    uninterrupted = run("whole")
    with pytest.raises(KilledError):
        run("parts", evaluation=1)
    with pytest.raises(KilledError):
        run("parts", step=11)
    monkeypatch.setattr("netadapt_onnx.training.loop.SAVED_EVERY_S", 0.0)
    with pytest.raises(KilledError):
        run("parts", evaluation=2)
    with pytest.raises(KilledError):
        run("parts", step=33)
    resumed = run("parts")
    assert resumed.proto.SerializeToString() == uninterrupted.proto.SerializeToString()
    assert resumed.evaluations == uninterrupted.evaluations
    assert [(e.steps, e.loss) for e in resumed.history] == [(e.steps, e.loss) for e in uninterrupted.history]


@pytest.mark.parametrize("steps", [24, 60])
def test_a_training_that_has_not_ended_may_be_shortened_or_lengthened(steps: int, tmp_path: Path) -> None:
    data = dataset(128)

    def run(planned: int, stop: int | None = None) -> TrainResult:
        return train(
            network(1),
            data,
            TrainingOptions(
                steps=planned,
                batch_size=32,
                views=Views(planned // 10, crops=True),
                averages=True,
                settings=FLOAT,
                length_may_differ=True,
            ),
            teacher=network(),
            checkpoint=tmp_path / "checkpoint",
            callbacks=TrainingCallbacks(progress=killed_at(stop)),
            validation=Validation(lambda proto: accuracy(proto, data.val).value, 0.0),
        )

    with pytest.raises(KilledError):
        run(40, stop=21)
    result = run(steps)
    assert result.history[-1].steps == steps
    assert result.evaluations[-1].step == steps


def test_a_short_training_is_evaluated_less_often_than_a_long_one_on_many_held_out_samples() -> None:
    assert affordable_evaluations(shown=800 * 128, held_out=5000) == EVALUATIONS
    assert affordable_evaluations(shown=80 * 128, held_out=5000) == 3
    assert affordable_evaluations(shown=10, held_out=5000) == 2
    assert affordable_evaluations(shown=30 * 37, held_out=100) == EVALUATIONS
    validation = Validation(lambda proto: 0.0, 0.0, count=3)
    assert [step for step in range(1, 81) if validation.is_due(step, 80)] == [27, 54, 80]
