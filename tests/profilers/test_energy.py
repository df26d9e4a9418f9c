"""Energy from a tree of files like Linux's: counters that wrap, sensors, and what may not be read."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

import models
from netadapt_onnx.cli import run
from netadapt_onnx.errors import NetadaptError
from netadapt_onnx.profilers import energy
from netadapt_onnx.profilers.energy import Power, energy_mj, meter
from netadapt_onnx.search.budget_check import resource_functions


class Time:
    """A clock that moves when asked to; with it whatever `then` does."""

    def __init__(self, then: Callable[[float], None] = lambda _: None) -> None:
        self.now = 0.0
        self._then = then

    def __call__(self) -> float:
        return self.now

    def run(self, seconds: float = 0.25) -> None:
        self.now += seconds
        self._then(seconds)


def write(path: Path, text: object) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"{text}\n")
    return path


def rapl(root: Path, packages: int = 1, start_uj: int = 0) -> list[Path]:
    zones = [root / f"sys/class/powercap/intel-rapl:{i}" for i in range(packages)]
    for zone in zones:
        write(zone / "energy_uj", start_uj)
        write(zone / "max_energy_range_uj", 10_000_000)
        write(zone.with_name(zone.name + ":0") / "energy_uj", 5)  # a part of the package
    return zones


@pytest.mark.parametrize("start_uj", [0, 9_500_000])
def test_rapl_counts_all_packages_and_wraps_around(tmp_path: Path, start_uj: int) -> None:
    zones = rapl(tmp_path, 2, start_uj)

    def draw(seconds: float) -> None:
        for zone in zones:  # 2 W each
            now = int((zone / "energy_uj").read_text()) + round(2e6 * seconds)
            write(zone / "energy_uj", now % 10_000_000)

    clock = Time(draw)
    result = energy_mj(clock.run, meter(root=tmp_path), clock=clock)
    assert result == pytest.approx(4 * 0.25 * 1000)


def test_loops_last_at_least_a_second(tmp_path: Path) -> None:
    [zone] = rapl(tmp_path)
    clock = Time(lambda seconds: write(zone / "energy_uj", int((zone / "energy_uj").read_text()) + 1000) and None)
    energy_mj(lambda: clock.run(0.01), meter(root=tmp_path), seconds=0.1, clock=clock)
    assert clock.now >= 1.0


def test_power_is_integrated_over_time() -> None:
    clock = Time()
    watts = [4.0]
    power = Power("sensor", lambda: watts[0], clock)
    with power.counting() as joules:
        clock.run(1.0)
        assert joules() == pytest.approx(4.0)
        watts[0] = 8.0
        clock.run(0.0)
        joules()
        clock.run(2.0)
        assert joules() == pytest.approx(20.0)


def test_a_board_is_measured_at_its_input_or_by_all_its_rails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(energy, "SAMPLING_S", 60.0)
    jetson = tmp_path / "sys/class/hwmon/hwmon1"
    write(jetson / "name", "ina3221")
    for i, (label, volts, amperes) in enumerate([("VDD_IN", 5000, 2000), ("VDD_CPU_GPU_CV", 5000, 900)], 1):
        write(jetson / f"in{i}_label", label)
        write(jetson / f"in{i}_input", volts)
        write(jetson / f"curr{i}_input", amperes)
    write(tmp_path / "sys/class/hwmon/hwmon0/name", "coretemp")
    assert watts(tmp_path) == pytest.approx(10.0)
    write(jetson / "in1_label", "VDD_SOC")
    assert watts(tmp_path) == pytest.approx(14.5)
    write(jetson / "name", "ina226")
    write(jetson / "power1_input", 3_000_000)
    assert watts(tmp_path) == pytest.approx(3.0)


def watts(root: Path) -> float:
    result = meter(root=root)
    assert isinstance(result, Power)
    return result.watts()


def test_what_cannot_be_measured_is_an_error_and_never_a_number(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(NetadaptError, match="neither RAPL counters nor power sensors") as caught:
        meter(root=tmp_path)
    assert (caught.value.code, "--resource-command" in caught.value.hint) == ("unmeasurable", True)
    [zone] = rapl(tmp_path)
    clock = Time()
    with pytest.raises(NetadaptError, match="RAPL stood still"):
        energy_mj(clock.run, meter(root=tmp_path), clock=clock)
    jumping = Time(lambda _: write(zone / "energy_uj", float((zone / "energy_uj").read_text()) + 1e15) and None)
    with pytest.raises(NetadaptError, match=r"RAPL counted 4e\+09 J in 1 s; no machine draws that much"):
        energy_mj(jumping.run, meter(root=tmp_path), clock=jumping)
    for number in ("nan", "inf", "much"):
        write(zone / "energy_uj", number)
        with pytest.raises(NetadaptError, match="may not be read"):
            meter(root=tmp_path)
    (zone / "energy_uj").unlink()
    (zone / "energy_uj").mkdir()  # as unreadable as a file without permission is to others than root
    with pytest.raises(NetadaptError, match="may not be read"):
        meter(root=tmp_path)
    monkeypatch.setattr(energy.importlib.util, "find_spec", lambda _: None)
    with pytest.raises(NetadaptError, match="nvidia-ml-py"):
        meter("cuda", tmp_path)


def test_evaluate_shows_energy_or_says_that_it_is_unmeasurable(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    model, data = tmp_path / "m.onnx", tmp_path / "d.npz"
    model.write_bytes(models.plain(size=8).SerializeToString())
    rng = np.random.default_rng(0)
    np.savez(data, x_val=rng.standard_normal((8, 3, 8, 8)).astype(np.float32), y_val=rng.integers(0, 10, 8))
    words = ["evaluate", str(model), "--data", str(data), "--no-latency", "--resource", "energy", "--json"]
    drawn = Power("a meter", lambda: 3.0)
    monkeypatch.setattr(resource_functions, "meter", lambda ep: drawn)
    assert run(words) == 0
    result = json.loads(capsys.readouterr().out)["models"][0]
    assert result["energy_mj"] > 0 and result["latency_ms"] is None
    monkeypatch.setattr(resource_functions, "meter", lambda ep: meter(ep, tmp_path))
    assert run(words) == 2
    assert json.loads(capsys.readouterr().out)["error"]["code"] == "unmeasurable"
