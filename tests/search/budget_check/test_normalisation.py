"""The baseline is the user's file: measured as given, in turn with the result, and what normalising gains is told."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from drifting_device import GAIN, GIVEN_MS, DriftingDevice, NormalisingDevice, listed, on_device
from models import overridable, plain, unprunable
from netadapt_onnx import cli
from netadapt_onnx.api.adapt import adapt, dry_run
from netadapt_onnx.api.prune import prune
from netadapt_onnx.errors import NetadaptError
from netadapt_onnx.graph.inputs import input_specs
from netadapt_onnx.graph.runtime import random_inputs, run, session
from netadapt_onnx.profilers import quantize
from netadapt_onnx.profilers.statistics import Ratio, Timing
from netadapt_onnx.search import dry_run as dry_run_module
from netadapt_onnx.search import tables
from netadapt_onnx.search.budget_check import measurements
from sample_data import brightest_channel
from search_cases import UNTRAINED, history, journal, overridable_task

pytestmark = pytest.mark.usefixtures("fixed_training_settings")


@pytest.fixture
def task(tmp_path: Path) -> tuple[Path, Path]:
    return overridable_task(tmp_path)


@pytest.mark.parametrize("budget", ["latency=0.6x", "latency=12ms", "latency=0.41x"])
def test_what_normalising_alone_meets_cuts_nothing(
    task: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, budget: str
) -> None:
    device = NormalisingDevice()
    on_device(monkeypatch, device)
    result = adapt(*task, budget, tmp_path / "run", **UNTRAINED)
    assert (result.met, result.stopped, result.iterations) == (True, "nothing-to-do", 0)
    assert device.pairs == [(False, True)]  # the normalised model once, in turn with the file
    assert any("normalising alone meets it (0.400x): nothing is cut" in note for note in result.notes)
    assert all(before == after for before, after in result.groups.values())
    assert (result.before.latency_ms, result.after.latency_ms) == pytest.approx((GIVEN_MS, GAIN * GIVEN_MS))
    assert result.normalised is not None
    assert result.normalised.latency_ms == pytest.approx(GAIN * GIVEN_MS)
    assert result.before.size_bytes == task[0].stat().st_size
    assert result.normalising["latency"].ratio == pytest.approx(GAIN)
    (limit,) = result.limits
    assert limit.limit == pytest.approx({"0.6x": 15.0, "12ms": 12.0, "0.41x": 10.25}[budget[8:]])
    assert limit.value == pytest.approx(1.01 * GAIN * GIVEN_MS)  # the interval's upper end
    written = onnx.load(result.model)
    assert [v.name for v in written.graph.input] == ["image"]
    alone = prune(task[0], tmp_path / "alone.onnx", ratio=0, check=True)
    assert alone.verify is not None and alone.verify.exact
    assert onnx.load(tmp_path / "alone.onnx").graph == written.graph


@pytest.mark.parametrize(("budget", "drift"), [("latency=0.3x", 1.0), ("latency=0.3x", 1.2), ("latency=7.5ms", 1.0)])
def test_a_budget_is_of_the_file_as_given(
    task: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, budget: str, drift: float
) -> None:
    device = NormalisingDevice(drift)
    on_device(monkeypatch, device)
    result = adapt(*task, budget, tmp_path / "run", **UNTRAINED)
    assert (result.met, result.stopped) == (True, "met")
    assert result.latency is not None
    assert 0.26 < result.latency.ratio <= result.latency.ci95[1] <= 0.3
    assert result.before.latency_ms == GIVEN_MS
    assert result.after.latency_ms == pytest.approx(result.latency.ratio * GIVEN_MS)
    assert result.normalised is not None
    assert result.normalised.latency_ms == pytest.approx(GAIN * GIVEN_MS)
    assert all(is_beside_file for _, is_beside_file in device.pairs)  # everything is measured beside the file
    for step in history(tmp_path / "run"):
        assert GAIN * 0.5 < step["accepted"]["measured"]["latency"] / GIVEN_MS < GAIN * 1.25
        if budget.endswith("x"):  # predictions are of the normalised model, and so is what corrects them
            assert step["accepted"]["correction"]["latency"] == pytest.approx(drift, rel=0.06)


def test_a_normalised_model_that_may_miss_is_cut(
    task: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """0.400x (0.396x to 0.404x) is not within 0.402x."""
    device = NormalisingDevice()
    on_device(monkeypatch, device)
    result = adapt(*task, "latency=0.402x", tmp_path / "run", **UNTRAINED)
    assert (result.met, result.stopped) == (True, "met")
    assert result.iterations
    assert result.latency is not None and result.latency.ci95[1] <= 0.402


def test_a_model_of_which_a_runtime_makes_the_same_is_measured_as_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "model.onnx").write_bytes(plain((8, 12, 16), size=8, classes=3).SerializeToString())
    device = DriftingDevice(1.0)
    on_device(monkeypatch, device)
    result = adapt(
        tmp_path / "model.onnx", brightest_channel(tmp_path / "d.npz"), "latency=0.6x", tmp_path / "run", **UNTRAINED
    )
    assert result.met and result.iterations
    assert (result.normalised, dict(result.normalising)) == (None, {})
    assert not [key for key in journal(tmp_path / "run") if "normalised" in key]
    assert not [note for note in result.notes if "normalis" in note]


def test_a_difference_that_cannot_be_told_is_none(
    task: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    device = NormalisingDevice(gain=1.002)
    on_device(monkeypatch, device)
    result = adapt(*task, "latency=0.6x", tmp_path / "run", **UNTRAINED)
    assert result.met and result.iterations
    assert (result.normalised, dict(result.normalising)) == (None, {})
    assert all(is_beside_file for _, is_beside_file in device.pairs)


def test_a_resumed_run_measures_the_file_no_second_time(
    task: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    device = NormalisingDevice()
    on_device(monkeypatch, device)
    first = adapt(*task, "latency=0.3x", tmp_path / "run", **UNTRAINED)
    measured = len(device.pairs)
    for name in ("result.json", ".target-1.json"):
        (tmp_path / "run" / name).unlink()
    again = adapt(*task, "latency=0.3x", tmp_path / "run", resume=True, **UNTRAINED)
    assert replace(again, seconds=first.seconds) == first
    assert len(device.pairs) == measured


def test_where_the_device_cannot_run_the_file_its_normalised_form_stands_for_it(
    task: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    device = NormalisingDevice()
    on_device(monkeypatch, device)
    refused: list[bool] = []

    def ratio(proto: onnx.ModelProto, reference: onnx.ModelProto, *more: Any, **options: Any) -> Ratio:
        if listed(reference):
            refused.append(True)
            raise NetadaptError("pi: onnxruntime cannot run the model: too old", code="unrunnable")
        return device.ratio(proto, reference, *more, **options)

    monkeypatch.setattr(measurements, "ratio", ratio)
    result = adapt(*task, "latency=0.6x", tmp_path / "run", **UNTRAINED)
    assert result.met and result.iterations and result.latency is not None
    assert result.latency.before_ms == pytest.approx(GAIN * GIVEN_MS)
    assert result.normalised is None
    assert any("too old; its normalised form stands for it" in note for note in result.notes)
    assert len(refused) == 1


def test_every_device_has_its_own_gain(
    task: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    devices_by_name = {"latency@a": NormalisingDevice(gain=0.4), "latency@b": NormalisingDevice(gain=0.9)}

    def built(file: Path, *arguments: Any) -> DriftingDevice:
        resource = file.stem.replace("table", "latency")
        arguments[4].name = resource
        return devices_by_name[resource]

    monkeypatch.setattr(tables, "built_table", built)
    monkeypatch.setattr(
        measurements, "ratio", lambda *args, device, **kw: devices_by_name[device.name].ratio(*args, **kw)
    )
    budgets, devices = ["latency@a=0.5x", "latency@b=0.5x"], ["a=local", "b=local"]
    result = adapt(*task, budgets, tmp_path / "run", device=devices, **UNTRAINED)
    assert result.met and result.iterations
    assert {name: share.ratio for name, share in result.normalising.items()} == pytest.approx(
        {"latency@a": 0.4, "latency@b": 0.9}
    )
    assert result.latencies["latency@b"].ci95[1] <= 0.5
    assert result.latencies["latency@a"].ratio == pytest.approx(result.latencies["latency@b"].ratio * 4 / 9, rel=0.01)


def test_what_a_program_says_of_the_file_is_what_its_budget_is_of(task: tuple[Path, Path], tmp_path: Path) -> None:
    def weighed(proto: onnx.ModelProto) -> float:
        weights = sum(float(np.prod(t.dims)) for t in proto.graph.initializer)
        return weights * (2.5 if listed(proto) else 1.0)

    options: dict[str, Any] = {"resource_command": weighed, **UNTRAINED}
    enough = adapt(*task, "custom=0.6x", tmp_path / "enough", **options)
    assert (enough.met, enough.stopped) == (True, "nothing-to-do")
    assert enough.normalising["custom"].ratio == pytest.approx(0.4)
    assert enough.measured["custom"].before == weighed(onnx.load(task[0]))
    cut = adapt(*task, "custom=0.3x", tmp_path / "cut", **options)
    assert cut.met and cut.iterations and 0.24 < cut.measured["custom"].ratio <= 0.3
    planned = dry_run(*task, "custom=0.6x", resource_command=weighed, step=2)
    assert planned.notes == ("normalising alone meets the budget",)


def test_a_dry_run_speaks_of_the_file_as_given(task: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    device = NormalisingDevice()
    monkeypatch.setattr(tables, "built_table", lambda *_: device)
    share = Ratio(GAIN, (0.39, 0.41), Timing(10, (10, 10), 9), Timing(25, (25, 25), 9))
    monkeypatch.setattr(dry_run_module, "time_original", lambda *_: (share, ""))
    assert dry_run(*task, "latency=0.6x", step=2).notes == ("normalising alone meets the budget",)
    planned = dry_run(*task, "latency=0.3x", step=2, init_reduction_ratio=0.2)
    assert planned.proposals
    assert planned.target == pytest.approx(0.8 * planned.current["latency"])


def test_the_row_of_normalising_is_on_the_screen_and_in_the_report(
    task: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    on_device(monkeypatch, NormalisingDevice())
    words = ["adapt", str(task[0]), "--data", str(task[1]), "--budget", "latency=0.3x", "-o", str(tmp_path / "run")]
    options = ["--step", "2", "--init-reduction-ratio", "0.2", "--final-epochs", "0"]
    assert cli.run([*words, *options]) == 0
    out = capsys.readouterr().out
    row = next(line.split() for line in out.splitlines() if line.startswith("latency, only normalised"))
    assert row[3:] == ["25", "ms", "10", "ms", "0.40x"]
    assert "--ratio 0 -o normalised.onnx` writes that" in out
    page = (tmp_path / "run/report.html").read_text()
    assert "latency, only normalised" in page
    assert cli.run([*words, *options, "--resume", "--json"]) == 0
    answer = json.loads(capsys.readouterr().out)
    assert answer["normalised"]["latency_ms"] == pytest.approx(10)
    assert answer["normalised"]["params"] == answer["before"]["params"]
    assert answer["before"]["latency_ms"] == pytest.approx(25)


def test_what_is_deployed_of_the_file_is_made_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every model is measured beside it, so it is asked for again and again."""
    quantisations: list[int] = []

    def quantised(proto: onnx.ModelProto, *_: object) -> onnx.ModelProto:
        quantisations.append(len(proto.graph.input))
        return proto

    monkeypatch.setattr(quantize, "quantise", quantised)
    deploy = quantize.Deployment("int8")
    file = overridable(plain())
    for seed in range(6):
        deploy.apply(plain(seed=seed))
        deploy.apply(file)
    assert quantisations.count(len(file.graph.input)) == 1
    assert len(quantisations) == 7


@pytest.mark.parametrize("build", [plain, unprunable])
def test_a_ratio_of_zero_writes_any_model_normalised(tmp_path: Path, build: Any) -> None:
    (tmp_path / "model.onnx").write_bytes(overridable(build()).SerializeToString())
    done = prune(tmp_path / "model.onnx", tmp_path / "alone.onnx", ratio=0, check=True)
    assert done.verify is not None and done.verify.exact
    files = [onnx.load(tmp_path / name) for name in ("model.onnx", "alone.onnx")]
    assert not listed(files[1])
    inputs = random_inputs(input_specs(files[1]))
    original, alone = (run(session(proto), inputs) for proto in files)
    for name, values in original.items():
        np.testing.assert_allclose(alone[name], values, atol=1e-5 * np.abs(values).max())
