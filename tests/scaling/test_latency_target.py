"""A latency target: the table proposes, what is measured corrects it, and the result lands within 3% as measured."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import onnx
import pytest

import models
import netadapt_onnx
from netadapt_onnx.api import scale as scaling
from netadapt_onnx.profilers.statistics import Ratio, Timing
from netadapt_onnx.scaling import latency_target

pytestmark = pytest.mark.usefixtures("fixed_training_settings")

WIDTHS = (64, 96, 128)
BLOCK = 8
CALL_MS = 0.2


def device_ms(widths: tuple[int, ...]) -> float:
    """A simulated device: layers cost whole blocks of output channels, a call costs something too."""
    blocks = [BLOCK * -(-width // BLOCK) for width in widths]
    before = (3, *blocks[:-1])
    areas = (256, 64, 16)
    return CALL_MS + sum(a * b * c for a, b, c in zip(areas, before, blocks, strict=True)) / 2e5


def widths_of(proto: onnx.ModelProto) -> tuple[int, ...]:
    dims = {t.name: t.dims[0] for t in proto.graph.initializer}
    return tuple(dims[f"conv{i}.weight"] for i in (1, 2, 3))


@dataclass(frozen=True)
class BiasedTable:
    """Knows nothing of the call and 15% too little of the rest."""

    def predict(self, shapes: Mapping[str, tuple[int, ...]]) -> float:
        return 0.85 * (device_ms(tuple(shapes[f"conv{i}_out"][1] for i in (1, 2, 3))) - CALL_MS)

    latency_ms = Timing(device_ms(WIDTHS), (0.0, 0.0), 1)
    staircase = SimpleNamespace(alignment=BLOCK)


@pytest.fixture
def measured(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, ...]]:
    """Replaces the clock and the table; lists the widths that were measured."""
    seen: list[tuple[int, ...]] = []
    noise = np.random.default_rng(0)

    def ratio(model: onnx.ModelProto, reference: onnx.ModelProto, *_: object, **__: object) -> Ratio:
        seen.append(widths_of(model))
        one, other = device_ms(widths_of(model)), device_ms(widths_of(reference))
        share = one / other * (1 + noise.normal(0, 0.002))
        return Ratio(share, (share, share), Timing(share * other, (one, one), 1), Timing(other, (other, other), 1))

    monkeypatch.setattr(latency_target, "ratio", ratio)
    monkeypatch.setattr(scaling, "built_table", lambda *_: BiasedTable())
    return seen


@pytest.mark.parametrize("target", ["0.35x", "0.6x", "1.5x", "1.5ms", "5ms"])
def test_a_latency_target_is_landed_on_within_3_percent_as_measured(
    tmp_path: Path, measured: list[tuple[int, ...]], target: str
) -> None:
    net = tmp_path / "net.onnx"
    onnx.save(models.plain(WIDTHS, size=16), net)
    result = netadapt_onnx.scale(net, method="uniform", target=f"latency={target}", out=tmp_path / "run")
    (model,) = result.models
    assert model.model is not None
    target_ms = float(target[:-1]) * device_ms(WIDTHS) if target.endswith("x") else float(target[:-2])
    assert device_ms(widths_of(onnx.load(model.model))) == pytest.approx(target_ms, rel=0.03)
    assert model.resources.latency_ms == pytest.approx(target_ms, rel=0.03)
    assert model.latency_ratio == pytest.approx(target_ms / device_ms(WIDTHS), rel=0.03)
    assert all(width % BLOCK == 0 for width in model.widths.values())
    assert 1 <= len(measured) <= latency_target.ATTEMPTS

    again = netadapt_onnx.scale(net, method="uniform", target=f"latency={target}", out=tmp_path / "run", resume=True)
    assert again.models[0].widths == model.widths
    assert len(measured) <= latency_target.ATTEMPTS  # nothing was measured again
