"""Settings are chosen by timing: clear winners win, near-ties do not."""

from __future__ import annotations

from dataclasses import replace
from typing import NoReturn

import numpy as np
import pytest

from models import plain
from netadapt_onnx.data.dataset import Dataset, Split
from netadapt_onnx.training import choose_settings
from netadapt_onnx.training.choose_settings import choose, most_replicas
from netadapt_onnx.training.memory import Footprint
from netadapt_onnx.training.settings import Settings
from netadapt_onnx.training.trainable import trainable_network
from netadapt_onnx.training.trial_process import TrialNetwork


def test_clearly_faster_settings_win_and_the_usual_ones_stay_otherwise() -> None:
    def stepping(cost: dict[str, float]) -> Settings:
        def prepare(settings: Settings):  # type: ignore[no-untyped-def]
            key = f"{settings.dtype}-{'last' if settings.channels_last else 'first'}"
            return lambda: cost[key] / (1.0 if settings.replicas == 1 else cost["gain"])

        return choose(prepare, 2)

    cost = {"float32-last": 1.0, "float32-first": 1.5, "bfloat16-last": 0.6, "bfloat16-first": 0.55, "gain": 0.9}
    assert stepping(cost) == Settings("bfloat16", True, 2)
    assert stepping(cost | {"gain": 0.7}) == Settings("bfloat16", True, 1)
    assert stepping(cost | {"bfloat16-last": 0.9, "bfloat16-first": 2.0}) == Settings("float32", True, 2)


@pytest.mark.parametrize(
    ("activation_mb", "only_batch", "batch_size", "replicas"),
    [
        (0.8, None, 128, 4),  # a small network: 32 samples are the least that a core gains from
        (0.8, None, 48, 1),
        (70.0, None, 29, 4),  # a large one: a few samples are enough work
        (70.0, None, 7, 1),
        (10.0, None, 29, 2),
        (70.0, 16, 32, 2),  # it runs 16 at a time
        (0.0, None, 256, 4),  # no more than cores
    ],
)
def test_a_batch_is_shared_out_as_far_as_each_core_has_enough_to_do(
    monkeypatch: pytest.MonkeyPatch, activation_mb: float, only_batch: int | None, batch_size: int, replicas: int
) -> None:
    monkeypatch.setattr("os.sched_getaffinity", lambda _: set(range(4)), raising=False)
    needs = Footprint({}, int(activation_mb * 2**20), only_batch)
    assert most_replicas(needs, batch_size) == replicas


def test_settings_of_a_large_network_are_timed_on_few_samples(monkeypatch: pytest.MonkeyPatch) -> None:
    """And those of a small one on as many as a step has."""
    timed: list[int] = []

    def tried(network: TrialNetwork) -> NoReturn:
        timed.append(len(next(iter(network.inputs.values()))))
        raise NotImplementedError

    monkeypatch.setattr(choose_settings, "Trials", tried)
    rng = np.random.default_rng(0)
    images = Split({"image": rng.standard_normal((64, 3, 16, 16)).astype(np.float32)}, rng.integers(0, 10, 64))
    network = trainable_network(plain((4, 4, 4)), Dataset(images, images))
    for activation_bytes in (1, 2**24, 2**28):
        large = replace(network, needs=replace(network.needs, activation_bytes=activation_bytes))
        with pytest.raises(NotImplementedError):
            choose_settings.settings_for(large, images, 64, 0)
    assert timed == [64, 16, 8]
