"""Where searches come down: budgets met as a simulated device measures them, whatever its table says."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx
import pytest

from drifting_device import DriftingDevice, on_device
from netadapt_onnx.api.adapt import adapt
from netadapt_onnx.profilers.statistics import Ratio, Timing
from netadapt_onnx.search.budget_check import measurements
from netadapt_onnx.search.budget_convergence import BudgetConvergence
from netadapt_onnx.search.netadapt import Accepted, Problem, Step
from netadapt_onnx.search.portfolio import PORTFOLIO
from netadapt_onnx.search.run_directory import run as running
from netadapt_onnx.search.schedule import Schedule
from search_cases import FAST, history

pytestmark = pytest.mark.usefixtures("fixed_training_settings")


@pytest.mark.parametrize("budget", ["latency=0.5x", "latency=5ms"])
@pytest.mark.parametrize("drift", [0.9, 1.0, 1.15])
def test_measured_latency_meets_the_budget_whatever_the_table_says(
    task: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, budget: str, drift: float
) -> None:
    on_device(monkeypatch, DriftingDevice(drift))
    result = adapt(*task, budget, tmp_path / "run", **FAST)
    assert result.met
    assert result.latency is not None
    assert 0.9 * 0.5 < result.latency.ratio < 0.5
    assert result.latency.ci95[1] <= 0.5
    assert result.after.latency_ms == result.latency.after_ms


@pytest.mark.parametrize("max_time", [1.0, 10.0, 25.0, 45.0, 90.0, 300.0])
def test_measurements_keep_within_the_time(
    task: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, max_time: float
) -> None:
    """Nothing but measurements takes time here, each as much as it may; a brief one is the least there is."""
    device, clock, caps = DriftingDevice(1.0), SimpleNamespace(now=0.0), []

    def ratio(*arguments: Any, **options: Any) -> Ratio:
        plan = arguments[4]
        caps.append(plan.time_cap_s)
        clock.now += plan.time_cap_s
        return device.ratio(*arguments, **options)

    on_device(monkeypatch, device)
    monkeypatch.setattr(measurements, "ratio", ratio)
    monkeypatch.setattr(running, "time", SimpleNamespace(monotonic=lambda: clock.now))
    result = adapt(*task, "latency=0.5x", tmp_path / "run", **FAST, max_time=max_time)
    assert clock.now <= max_time + 2 * measurements.BRIEF_S  # the last proposal's, and the result's
    assert min(caps) >= measurements.BRIEF_S
    assert result.latency is not None  # a verdict, however short the time
    short = [note for note in result.notes if "shorter time" in note]
    assert bool(short) == (caps[-1] < measurements.CAREFUL_S)
    if max_time == 300.0:
        assert result.met and result.stopped == "met"


def test_a_model_that_careful_measurement_finds_faster_than_thought_is_given_channels_back(
    task: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    on_device(monkeypatch, DriftingDevice(1.0, late=0.9))
    result = adapt(*task, "latency=0.5x", tmp_path / "run", **FAST)
    assert result.met
    assert result.latency is not None
    assert any(s["channels"][1] > s["channels"][0] for s in history(tmp_path / "run"))
    assert 0.97 * 0.5 < result.latency.ratio < 0.5


def test_the_most_accurate_model_within_the_budget_is_the_result_though_others_followed(
    task: tuple[Path, Path], tmp_path: Path
) -> None:
    """Exact resources: the first landing is accurate, whatever is given back afterwards spoils the model."""
    scores: list[float] = []

    def evaluate(proto: onnx.ModelProto) -> float:
        small = sum(float(np.prod(t.dims)) for t in proto.graph.initializer)
        scores.append(small)
        return -abs(small - min(scores))  # less than the smallest so far is best

    result = adapt(*task, "macs=0.5x", tmp_path / "run", **FAST | {"step": 8, "evaluate": evaluate, "save_interval": 5})
    steps = history(tmp_path / "run")
    assert result.met
    within = [s for s in steps if s["resources"]["macs"] <= 0.5 * result.before.macs]
    assert len(within) > 1 and any(s["channels"][1] > s["channels"][0] for s in steps)
    assert result.iterations == max(within, key=lambda s: s["accepted"]["accuracy"])["iteration"] < len(steps)
    assert any(f"the model of iteration {result.iterations}" in note for note in result.notes)
    (tmp_path / "run" / "result.json").unlink()
    again = adapt(
        *task,
        "macs=0.5x",
        tmp_path / "run",
        resume=True,
        **FAST | {"step": 8, "evaluate": evaluate, "save_interval": 5},
    )
    assert replace(again, seconds=result.seconds) == result


def test_what_was_measured_while_something_else_slowed_the_device_is_measured_again(
    task: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every second one is disturbed: the original takes 1.2 times as long, the small model 1.5 times."""

    class EverySecondSlow(DriftingDevice):
        def ratio(self, *arguments: Any, **options: Any) -> Ratio:
            quiet_ratio = super().ratio(*arguments, **options)
            if len(self.measured) % 2:
                return quiet_ratio
            slow = Timing(12.0, (11.9, 12.1), quiet_ratio.reference.sessions)
            return replace(quiet_ratio, median=1.25 * quiet_ratio.median, ci95=(2.0, 2.0), reference=slow)

    device = EverySecondSlow(1.0)
    on_device(monkeypatch, device)
    result = adapt(*task, "latency=0.5x", tmp_path / "run", **FAST)
    assert result.met
    journal = (tmp_path / "run" / "journal.jsonl").read_text()
    assert len(device.measured) == 2 * journal.count('"key":"latency/') - 1 > 1
    assert all(s["accepted"]["correction"]["latency"] < 1.01 for s in history(tmp_path / "run"))


def test_a_latency_budget_is_landed_on_in_widths_that_run_fast(
    task: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    on_device(monkeypatch, DriftingDevice(1.0, alignment=4))
    result = adapt(*task, "latency=0.5x", tmp_path / "run", **FAST | {"step": 4})
    assert result.met
    assert all(after % 4 == 0 for _, after in result.groups.values())


def test_the_device_decides_whether_a_latency_is_out_of_reach(
    task: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The smallest model takes 0.011x; a table that thinks nothing gets below 0.5x is not believed, a device is."""
    device = DriftingDevice(1.0)
    on_device(monkeypatch, device)
    predict = device.predict
    monkeypatch.setattr(device, "predict", lambda shapes: predict(shapes) / 2 + 0.9)
    hopeful = adapt(*task, "latency=0.45x", tmp_path / "hopeful", **FAST)
    assert hopeful.met
    assert hopeful.iterations > 1
    hopeless = adapt(*task, "latency=0.005x", tmp_path / "hopeless", **FAST)
    assert (hopeless.met, hopeless.iterations, hopeless.stopped) == (False, 1, "no-way-down")


def test_a_budget_missed_by_the_careful_measurement_takes_another_step(
    task: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Brief measurements agree with the table, careful ones are 5% slower: the first landing is not enough."""
    device = DriftingDevice(1.0, late=1.05)
    on_device(monkeypatch, device)
    result = adapt(*task, "latency=0.5x", tmp_path / "run", **FAST)
    assert result.met
    seen = len(device.measured)
    journal = (tmp_path / "run" / "journal.jsonl").read_text()
    assert journal.count('"latency/searched/') == 2
    (tmp_path / "run" / "result.json").unlink()
    again = adapt(*task, "latency=0.5x", tmp_path / "run", resume=True, **FAST)
    assert replace(again, seconds=result.seconds) == result
    assert len(device.measured) == seen


def test_results_tell_of_both_careful_measurements_as_one(
    task: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    on_device(monkeypatch, DriftingDevice(1.0))
    result = adapt(*task, "latency=0.5x", tmp_path / "run", **FAST)
    kept = map(json.loads, (tmp_path / "run" / "journal.jsonl").read_text().splitlines())
    careful = [
        line["value"]
        for line in kept
        if line["key"] in (f"latency/{stage}/{result.iterations}" for stage in ("searched", "final"))
    ]
    assert len(careful) == 2
    pairs = [np.divide(*value["sessions_ms"]) for value in careful]
    assert result.latency is not None
    assert result.latency.sessions == sum(map(len, pairs))
    assert result.latency.ratio == pytest.approx(float(np.median(np.concatenate(pairs))))


@pytest.mark.parametrize(("second", "chosen"), [(0.748, 2), (0.74, 1), (0.76, 2)])
def test_of_models_about_as_accurate_the_one_that_uses_most_of_the_budget_is_the_result(
    second: float, chosen: int
) -> None:
    start = Accepted(0.8, None, {})
    problem = Problem(
        choices=(), resources=lambda widths: {"macs": float(widths["a"])}, limits={"macs": 100.0}, start=start,
        schedule=Schedule(0.025, 0.96), max_iterations=100,
    )  # fmt: skip

    def step(iteration: int, width: int, accuracy: float) -> Step:
        accepted = Accepted(accuracy, None, {})
        return Step(iteration, "a", (0, width), {"a": width}, "macs", 0.0, {"macs": float(width)}, accepted, (), ())

    steps = [step(1, 90, 0.75), step(2, 99, second)]
    assert BudgetConvergence({}, lambda *_: {}).best(problem, (), steps) == chosen


@pytest.mark.parametrize(("correction", "chosen"), [(1.0, 2), (1.2, 1)])
def test_what_the_portfolio_has_beaten_comes_back_only_if_its_winner_misses_the_budget(
    correction: float, chosen: int
) -> None:
    problem = Problem(
        choices=(), resources=lambda widths: {"macs": float(widths["a"])}, limits={"macs": 100.0},
        start=Accepted(0.8, None, {}), schedule=Schedule(0.025, 0.96), max_iterations=100,
    )  # fmt: skip

    def step(iteration: int, group: str, width: int, accepted: Accepted) -> Step:
        return Step(iteration, group, (0, width), {"a": width}, "macs", 0.0, {"macs": float(width)}, accepted, (), ())

    beaten = step(1, "a", 99, Accepted(0.79, None, {}))
    winner = step(2, PORTFOLIO, 90, Accepted(0.7, None, {"macs": correction}))
    assert BudgetConvergence({}, lambda *_: {}).best(problem, (), [beaten, winner]) == chosen
