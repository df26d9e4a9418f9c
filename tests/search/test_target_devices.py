"""Budgets for several devices, each measured on its own; and for one that nobody can reach."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from drifting_device import DriftingDevice
from netadapt_onnx import cli
from netadapt_onnx.api.adapt import adapt, dry_run
from netadapt_onnx.common.budget import parse_budgets
from netadapt_onnx.errors import NetadaptError
from netadapt_onnx.profilers.devices.local import LocalDevice
from netadapt_onnx.profilers.statistics import Ratio
from netadapt_onnx.search import tables
from netadapt_onnx.search.budget_check import measurements
from search_cases import FAST

pytestmark = pytest.mark.usefixtures("fixed_training_settings")


@pytest.fixture
def simulated(monkeypatch: pytest.MonkeyPatch) -> dict[str, DriftingDevice]:
    """DriftingDevice `b` is a fifth slower than its table says, and knows by its name who is measured."""
    devices = {
        "latency@a": DriftingDevice(1.0),
        "latency@b": DriftingDevice(1.2),
        "latency": DriftingDevice(1.0),
    }

    def built(file: Path, __: Any, ___: Any, ____: Any, _____: Any, device: Any) -> DriftingDevice:
        device.name = resource = file.stem.replace("table", "latency")
        return devices[resource]

    def ratio(*arguments: Any, device: Any, **options: Any) -> Ratio:
        return devices[device.name].ratio(*arguments, **options)

    monkeypatch.setattr(tables, "built_table", built)
    monkeypatch.setattr(measurements, "ratio", ratio)
    return devices


def test_every_device_must_meet_its_own_budget(
    task: tuple[Path, Path], tmp_path: Path, simulated: dict[str, DriftingDevice]
) -> None:
    budgets = ["latency@a=0.5x", "latency@b=6ms"]
    result = adapt(*task, budgets, tmp_path / "run", device=["a=local", "b=local"], **FAST)
    assert result.met
    assert [limit.budget for limit in result.limits] == budgets
    assert set(result.latencies) == {"latency@a", "latency@b"}
    assert result.latencies["latency@a"].ci95[1] <= 0.5
    assert result.latencies["latency@b"].after_ci95_ms[1] <= 6
    assert result.latencies["latency@b"].ratio > 1.15 * result.latencies["latency@a"].ratio
    assert simulated["latency@a"].measured
    assert simulated["latency@b"].measured
    recorded = json.loads((tmp_path / "run/run.json").read_text())
    assert set(recorded["about"]["devices"]) == {"latency@a", "latency@b"}
    assert recorded["identity"]["device"] == ["a=local", "b=local"]
    again = adapt(*task, budgets, tmp_path / "run", device=["a=local", "b=local"], resume=True, **FAST)
    assert again == result


def test_a_budget_that_one_device_misses_is_missed(
    task: tuple[Path, Path], tmp_path: Path, simulated: dict[str, DriftingDevice]
) -> None:
    budgets = ["latency@a=0.9x", "latency@b=0.001x"]
    result = adapt(*task, budgets, tmp_path / "run", device={"a": "local", "b": LocalDevice()}, **FAST)
    assert result.met is False
    assert [limit.met for limit in result.limits] == [True, False]


def test_names_of_devices_and_budgets_must_fit(task: tuple[Path, Path], tmp_path: Path) -> None:
    for budget, device, message in (
        ("latency@pi=5ms", "local", "no device is called 'pi'"),
        ("latency=5ms", ["local", "pi=local"], "no budget for latency@pi"),
        ("macs=0.5x", ["pi=local", "pi=ssh://pi"], "given twice"),
        ("latency=5ms", "bundle", "needs the --table"),
        ("macs@pi=5M", "pi=local", "unknown resource 'macs@pi'"),
        ("latency@=5ms", "local", "unknown resource"),
    ):
        with pytest.raises(NetadaptError, match=message):
            adapt(*task, budget, tmp_path / "run", device=device, **FAST)
        assert not (tmp_path / "run").exists()
    [budget] = parse_budgets("latency@my-pi.4=30ms")
    assert (budget.kind, budget.resource, str(budget)) == ("latency", "latency@my-pi.4", "latency@my-pi.4=30ms")


def test_what_only_a_bundle_reaches_is_predicted_and_met_is_null(
    task: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    device = DriftingDevice(1.0)
    monkeypatch.setattr(tables, "loaded_table", lambda *_, **__: device)
    (tmp_path / "t.jsonl").touch()
    command = [
        "adapt",
        str(task[0]),
        "--data",
        str(task[1]),
        "--table",
        str(tmp_path / "t.jsonl"),
        "--device",
        "bundle",
    ]
    options = ["--step", "2", "--init-reduction-ratio", "0.2", "--final-epochs", "0"]
    run = str(tmp_path / "run")
    assert cli.run([*command, *options, "--budget", "latency=0.5x", "--budget", "macs=0.9x", "-o", run, "--json"]) == 0
    answer = json.loads(capsys.readouterr().out)
    assert answer["ok"] is True
    assert answer["met"] is None
    assert [limit["met"] for limit in answer["limits"]] == [None, True]
    assert answer["limits"][0]["value"] <= answer["limits"][0]["limit"]
    assert any("predicted" in note for note in answer["notes"])
    assert answer["latency"] is None
    assert not device.measured


def test_a_dry_run_predicts_for_every_device(task: tuple[Path, Path], simulated: dict[str, DriftingDevice]) -> None:
    planned = dry_run(*task, ["latency@a=0.9x", "latency@b=0.8x"], device=["a=local", "b=local"], step=2)
    assert planned.driver == "latency@b"
    assert {"latency@a", "latency@b"} <= set(planned.current)
