"""Settings are chosen by timing: clear winners win, near-ties do not."""

from __future__ import annotations

import pytest

from netadapt_onnx.training.choose_settings import choose
from netadapt_onnx.training.settings import Settings


def test_clearly_faster_settings_win_and_the_usual_ones_stay_otherwise(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.sched_getaffinity", lambda _: {0, 1}, raising=False)

    def stepping(cost: dict[str, float]) -> Settings:
        def prepare(settings: Settings):  # type: ignore[no-untyped-def]
            key = f"{settings.dtype}-{'last' if settings.channels_last else 'first'}"
            return lambda: cost[key] / (1.0 if settings.replicas == 1 else cost["gain"])

        return choose(prepare, 128)

    cost = {"float32-last": 1.0, "float32-first": 1.5, "bfloat16-last": 0.6, "bfloat16-first": 0.55, "gain": 0.9}
    assert stepping(cost) == Settings("bfloat16", True, 2)
    assert stepping(cost | {"gain": 0.7}) == Settings("bfloat16", True, 1)
    assert stepping(cost | {"bfloat16-last": 0.9, "bfloat16-first": 2.0}) == Settings("float32", True, 2)
