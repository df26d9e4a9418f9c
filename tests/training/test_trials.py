"""Settings that raise, kill their process, hang or compute nonsense are left out of training, and that is said."""

from __future__ import annotations

import os
import pickle
import signal
import threading
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from models import Builder, plain
from netadapt_onnx.common.child_process import Death, packed
from netadapt_onnx.data.dataset import Dataset, Split, UserFunctions
from netadapt_onnx.errors import NetadaptError
from netadapt_onnx.training import trials
from netadapt_onnx.training.callbacks import TrainingCallbacks
from netadapt_onnx.training.choose_settings import choose, choose_settings
from netadapt_onnx.training.ops import registry
from netadapt_onnx.training.options import TrainingOptions
from netadapt_onnx.training.settings import Settings, TrialError
from netadapt_onnx.training.trainer import train
from netadapt_onnx.training.trial_process import Failure, Trial, TrialNetwork
from netadapt_onnx.training.trials import HOPELESS, LEAST_S, Trials

Loss = Callable[[Any, Any], Any]
TEST_PROCESS = os.getpid()
PLAIN = Settings(channels_last=False)
ALL = [Settings(), PLAIN, Settings("bfloat16"), Settings("bfloat16", channels_last=False)]


def dataset(loss: Loss | None = None, samples: int = 16) -> Dataset:
    rng = np.random.default_rng(0)
    inputs = {"image": rng.standard_normal((samples, 3, 16, 16)).astype(np.float32)}
    split = Split(inputs, rng.integers(0, 10, samples))
    return Dataset(split, split, user=UserFunctions("loss.py:loss", loss))


def usual(outputs: Any, labels: Any) -> Any:
    return torch.nn.functional.cross_entropy(outputs["logits"].float(), labels)


def in_bfloat16(effect: Callable[[], Any]) -> Loss:
    """A loss that is fine in float32 and something else in bfloat16."""

    def loss(outputs: Any, labels: Any) -> Any:
        if outputs["logits"].dtype == torch.bfloat16:
            effect()
        return usual(outputs, labels)

    return loss


def chosen(loss: Loss) -> tuple[Settings, list[str]]:
    messages: list[str] = []
    return choose_settings(plain((4, 4, 4)), dataset(loss), log=messages.append), messages


def test_what_raises_is_left_out_and_said() -> None:
    def effect() -> None:
        raise RuntimeError("no such kernel here")

    settings, messages = chosen(in_bfloat16(effect))
    assert settings.dtype == "float32"
    assert messages == [
        "left out of training: bfloat16 channels last, bfloat16 channels first: RuntimeError: no such kernel here"
    ]


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="no signals")
@pytest.mark.parametrize("name", ["SIGKILL", "SIGSEGV"])
def test_what_kills_its_process_is_left_out_and_said(name: str) -> None:
    def effect() -> None:
        assert os.getpid() != TEST_PROCESS, "trials take place elsewhere"
        os.kill(os.getpid(), getattr(signal, name))

    settings, messages = chosen(in_bfloat16(effect))
    assert settings.dtype == "float32"
    assert messages == [
        f"left out of training: bfloat16 channels last, bfloat16 channels first: its process died of {name}"
    ]


def test_a_model_that_cannot_be_trained_at_all_is_one_clear_error() -> None:
    def broken(outputs: Any, labels: Any) -> Any:
        raise RuntimeError("labels of another world")

    with pytest.raises(
        NetadaptError, match="cannot be trained on this machine: RuntimeError: labels of another"
    ) as error:
        choose_settings(plain((4, 4, 4)), dataset(broken))
    assert error.value.code == "training"


def test_what_a_user_can_act_on_is_raised_as_it_is() -> None:
    with pytest.raises(NetadaptError, match="returned str") as error:
        choose_settings(plain((4, 4, 4)), dataset(lambda outputs, labels: "small"))
    assert error.value.code == "factory"


def test_too_little_memory_everywhere_makes_batches_smaller() -> None:
    def greedy(outputs: Any, labels: Any) -> Any:
        if len(labels) > 4:
            raise MemoryError("not enough memory")
        return usual(outputs, labels)

    messages: list[str] = []
    result = train(
        plain((4, 4, 4)),
        dataset(greedy, 8),
        TrainingOptions(steps=1, lr=0.01),
        callbacks=TrainingCallbacks(log=messages.append),
    )
    assert result.batch_size == 4
    assert messages[-1] == "out of memory with batches of 8: training starts anew with batches of 4"


def test_a_loss_that_cannot_leave_this_process_is_replaced_in_trials() -> None:
    lock = threading.Lock()

    def loss(outputs: Any, labels: Any) -> Any:
        with lock:
            return usual(outputs, labels)

    settings, messages = chosen(loss)
    assert settings.replicas == 1
    assert messages == []


def test_an_operator_that_cannot_leave_this_process_is_tried_here(monkeypatch: pytest.MonkeyPatch) -> None:
    lock = threading.Lock()

    def relu(node: Any, x: torch.Tensor) -> torch.Tensor:
        with lock:
            return x.relu()

    monkeypatch.setitem(registry._FUNCTIONS, ("", "Relu"), relu)
    assert choose_settings(plain((4, 4, 4)), dataset()).device == "cpu"


def test_a_process_that_ended_while_nobody_asked_is_started_anew() -> None:
    choose_settings(plain((4, 4, 4)), dataset())
    (idle,) = trials._idle
    idle.kill()
    messages: list[str] = []
    choose_settings(plain((4, 4, 4)), dataset(), log=messages.append)
    assert messages == []
    assert trials._idle
    assert trials._idle[0] is not idle


def trial_network() -> TrialNetwork:
    data = dataset().train
    return TrialNetwork(plain((4, 4, 4)).SerializeToString(), data.batch(slice(None)), data.targets(slice(None)))


class Clockwork:
    """A process of a clock that nobody waits for: what settings take, or how they end it."""

    def __init__(self, seconds: dict[Settings, float | str], clock: list[float]) -> None:
        self._seconds, self._clock = seconds, clock
        self._answers: list[bytes | float] = []
        self.limits: list[float | None] = []

    def send(self, message: bytes) -> None:
        requests = pickle.loads(message)
        self._answers.append(b"began")
        if not isinstance(requests, Settings):
            self._answers.append(packed(None))
            return
        took = self._seconds[requests]
        if isinstance(took, str):
            self._answers.append(packed(Failure(took)))
            return
        self._answers += [took, packed(took)]

    def receive(self, timeout_s: float | None = None) -> bytes:
        answer = self._answers.pop(0)
        if isinstance(answer, float):
            assert timeout_s is not None
            self.limits.append(timeout_s)
            if answer > timeout_s:
                self._clock[0] += timeout_s
                raise TimeoutError
            self._clock[0] += answer
            answer = self._answers.pop(0)
            assert isinstance(answer, bytes)
        return answer

    def death(self) -> Death:
        raise AssertionError

    def kill(self) -> None:
        self._answers = []


def test_what_hangs_is_given_up_in_a_time_that_grows_with_the_first_trial(monkeypatch: pytest.MonkeyPatch) -> None:
    forever = float("inf")
    for first, limit in ((1.0, LEAST_S), (60.0, HOPELESS * 60.0)):
        clock = [0.0]
        monkeypatch.setattr("time.monotonic", lambda clock=clock: clock[0])
        costs: dict[Settings, float | str] = dict.fromkeys(ALL, first)
        costs[ALL[2]] = forever
        costs[ALL[3]] = "it raised"
        started: list[Clockwork] = []

        def start(costs: dict[Settings, float | str] = costs, clock: list[float] = clock,
                  started: list[Clockwork] = started) -> Clockwork:  # fmt: skip
            started.append(Clockwork(costs, clock))
            return started[-1]

        messages: list[str] = []
        with Trials(trial_network(), start) as trials_:
            chosen_settings = choose(trials_.prepare, 1, log=messages.append)
        assert chosen_settings == Settings()
        assert messages == [
            f"left out of training: bfloat16 channels last: it was not done after {limit:.0f} s",
            "left out of training: bfloat16 channels first: it raised",
        ]
        assert len(started) == 2
        assert started[0].limits[0] == trials.FIRST_S
    trials._idle.clear()


@pytest.mark.parametrize(
    ("damage", "reason"),
    [(lambda y: y * float("nan"), "are no numbers"), (lambda y: y * -1, "are off by"), (lambda y: y * 1.01, None)],
)
def test_kernels_that_give_other_numbers_are_left_out(
    damage: Callable[[torch.Tensor], torch.Tensor], reason: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    right = registry._FUNCTIONS["", "Gemm"]

    def gemm(node: Any, *inputs: torch.Tensor) -> Any:
        y = right(node, *inputs)
        assert isinstance(y, torch.Tensor)
        return damage(y) if torch.is_autocast_enabled("cpu") else y

    monkeypatch.setitem(registry._FUNCTIONS, ("", "Gemm"), gemm)
    with Trial(trial_network()) as trial:
        assert trial.step(PLAIN) > 0
        assert trial.step(Settings()) > 0
        if reason is None:
            assert trial.step(Settings("bfloat16")) > 0
            return
        with pytest.raises(TrialError, match=reason):
            trial.step(Settings("bfloat16"))


def test_a_teacher_that_does_not_run_in_the_settings_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    b = Builder()
    b.node("Mul", [b.node("Selu", ["image"]), b.random("weight", (1, 3, 1, 1))], output="y")
    teacher = b.model({"image": ("N", 3, 16, 16)}, {"y": ("N", 3, 16, 16)})

    def selu(node: Any, x: torch.Tensor) -> torch.Tensor:
        if torch.is_autocast_enabled("cpu"):
            raise RuntimeError("no such kernel here")
        return torch.selu(x)

    monkeypatch.setitem(registry._FUNCTIONS, ("", "Selu"), selu)
    with Trial(replace(trial_network(), teacher=teacher.SerializeToString())) as trial:
        assert trial.step(PLAIN) > 0
        with pytest.raises(TrialError, match="no such kernel here"):
            trial.step(Settings("bfloat16"))


def test_a_gpu_on_which_nothing_works_gives_way_to_the_processor() -> None:
    def prepare(settings: Settings) -> Callable[[], float]:
        if settings.device == "cuda":
            raise TrialError("an illegal instruction")
        return lambda: 1.0

    messages: list[str] = []
    assert choose(prepare, 1, gpu_dtypes=("float32",), log=messages.append) == Settings()
    assert messages == [
        "left out of training: float32 channels last on cuda, float32 channels first on cuda: an illegal instruction"
    ]


def test_replicas_that_do_not_work_leave_one() -> None:
    def prepare(settings: Settings) -> Callable[[], float]:
        def step() -> float:
            if settings.replicas > 1:
                raise TrialError("its process died of SIGSEGV")
            return 1.0

        return step

    messages: list[str] = []
    assert choose(prepare, 2, log=messages.append) == Settings()
    assert messages == ["left out of training: float32 channels last 2 replicas: its process died of SIGSEGV"]


def test_settings_of_another_machine_that_do_not_work_here_are_a_clear_error() -> None:
    def effect() -> None:
        raise RuntimeError("no such kernel here")

    with pytest.raises(NetadaptError, match=r"training in bfloat16 channels last failed: no such .*another machine"):
        train(
            plain((4, 4, 4)),
            dataset(in_bfloat16(effect)),
            TrainingOptions(steps=1, lr=0.01, settings=Settings("bfloat16")),
        )


def test_a_recurrent_network_trains_on_any_processor() -> None:
    """oneDNN has no LSTM in bfloat16 without AVX-512."""
    b = Builder()
    weights = [b.random("w", (1, 32, 5), 5), b.random("r", (1, 32, 8), 8)]
    steps = b.node("LSTM", [b.node("Transpose", ["x"], perm=[1, 0, 2]), *weights], hidden_size=8)
    mean = b.node("ReduceMean", [b.node("Squeeze", [steps, b.constant("axis", [1])])], axes=[0], keepdims=0)
    b.fc(mean, 8, 3, output="y")
    proto = b.model({"x": ("N", 7, 5)}, {"y": ("N", 3)})
    rng = np.random.default_rng(0)
    split = Split({"x": rng.standard_normal((32, 7, 5)).astype(np.float32)}, rng.integers(0, 3, 32))
    losses = [epoch.loss for epoch in train(proto, Dataset(split, split), TrainingOptions(epochs=6, lr=0.1)).history]
    assert losses[-1] < losses[0]
