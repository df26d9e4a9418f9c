"""Latencies of models beside each other, on a simulated device and on this machine."""

from __future__ import annotations

from pathlib import Path

import pytest

from models import plain
from netadapt_onnx import measure_latency
from netadapt_onnx.errors import NetadaptError
from netadapt_onnx.graph.model import load, save
from simulated_device import SimulatedDevice, quiet, true_ratio


@pytest.fixture
def models(tmp_path: Path) -> list[Path]:
    """A network, a narrower one, and the first once more."""
    large, small = plain((64, 64)), plain((16, 16))
    return [save(proto, tmp_path / f"{name}.onnx") for name, proto in (("a", large), ("b", small), ("c", large))]


def test_models_are_compared_with_the_first(models: list[Path]) -> None:
    device = SimulatedDevice(quiet)
    result = measure_latency(models, device=device)
    first, small, same = result.models
    assert [model.path for model in result.models] == models
    assert first.ratio is None and small.ratio is not None and same.ratio is not None
    truth = true_ratio(load(models[1]).proto, load(models[0]).proto)
    assert small.ratio.ci95[0] <= small.ratio.median <= small.ratio.ci95[1]
    assert small.ratio.median == pytest.approx(truth, rel=0.02)
    assert small.differs and not same.differs and not same.undecided
    assert len(device.jobs) == 1 and result.disturbance is None  # all of them took turns
    assert small.latency_ms.median / first.latency_ms.median == pytest.approx(truth, rel=0.03)


def test_a_disturbed_device_is_named_and_decides_nothing(models: list[Path]) -> None:
    device = SimulatedDevice(lambda _, rng: float(rng.uniform(0.3, 3)), others=1.9)  # each session has its own speed
    result = measure_latency([models[0], models[2]], device=device)
    assert result.disturbance is not None and result.disturbance.busy
    assert any("is busy" in note for note in result.notes)
    assert result.models[1].undecided


def test_one_model_alone_has_no_ratio(models: list[Path]) -> None:
    [latency] = measure_latency(models[0], device=SimulatedDevice(quiet)).models
    assert latency.ratio is None and not latency.undecided
    assert latency.latency_ms.ci95[0] <= latency.latency_ms.median <= latency.latency_ms.ci95[1]


def test_models_of_other_inputs_are_timed_apart(models: list[Path], tmp_path: Path) -> None:
    wider = save(plain((64, 64), size=24), tmp_path / "wider.onnx")
    device = SimulatedDevice(quiet)
    result = measure_latency([models[0], wider, models[1]], device=device)
    assert [model.ratio is not None for model in result.models] == [False, False, True]
    assert len(device.jobs) == 2
    assert [note for note in result.notes if "1x3x24x24" in note and "no ratio" in note]


def test_this_machine_runs_the_files(models: list[Path]) -> None:
    result = measure_latency(models[:2], time_cap_s=0.3, batch_size=2)
    assert all(0 < model.latency_ms.median < 10_000 for model in result.models)
    assert result.device["ep"] == "cpu" and result.device["threads"] == 1


def test_nothing_to_time_and_unknown_options_are_refused(models: list[Path]) -> None:
    with pytest.raises(NetadaptError, match="no model to time"):
        measure_latency([])
    with pytest.raises(NetadaptError, match="no device 'nowhere'"):
        measure_latency(models[0], device="nowhere")
    with pytest.raises(TypeError, match=r"measure_latency\(\) got an unexpected keyword argument 'split'"):
        measure_latency(models[0], split="val")  # type: ignore[call-arg]
