"""Runs that end undecided or go on from a trained model: whatever moment they are killed or resumed at."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from disturbed_device import DisturbedDevice, hopeless, quiet, searched, size
from drifting_device import NormalisingDevice, on_device
from models import overridable, plain
from netadapt_onnx.api import adapt as adapt_module
from netadapt_onnx.api.adapt import adapt
from netadapt_onnx.graph.model import load
from netadapt_onnx.profilers.devices.local import LocalDevice
from netadapt_onnx.profilers.statistics import Ratio, Timing
from netadapt_onnx.search import device_accuracy, final_training, open_budget_checks, tables
from netadapt_onnx.search.budget_check import check, measurements
from netadapt_onnx.search.result import OnDevice
from netadapt_onnx.search.target_devices import TargetDevice
from netadapt_onnx.training import trainer
from sample_data import brightest_channel
from search_cases import UNTRAINED, history

pytestmark = pytest.mark.usefixtures("fixed_training_settings")


class SlowerOnceTrained(DisturbedDevice):
    """4% slower once the run holds a trained model, as on another day."""

    run: Path

    def ratio(self, *arguments: Any, **options: Any) -> Ratio:
        self.bias = 1.04 if list(self.run.glob("iterations/*/trained.onnx")) else 1.0
        return super().ratio(*arguments, **options)


def slower(run: Path) -> SlowerOnceTrained:
    device = SlowerOnceTrained(quiet)
    device.run = run
    return device


class KilledError(BaseException):
    """Ends a run at once."""


@pytest.fixture
def epochs(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The epochs of every final training."""
    calls: list[int] = []
    train = trainer.train

    def counted(proto: Any, dataset: Any, options: Any, **keywords: Any) -> Any:
        calls.append(options.epochs)
        return train(proto, dataset, options, **keywords)

    monkeypatch.setattr(trainer, "train", counted)
    return calls


@pytest.mark.parametrize("moment", ["before the trained model is an iteration", "before its line in the history"])
def test_a_run_killed_while_it_goes_on_from_a_trained_model_comes_to_the_same(
    task: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, moment: str
) -> None:
    options: dict[str, Any] = {"data": task[1], "evaluate": None, "final_epochs": 1}
    unkilled = searched(task[0], tmp_path / "whole", slower(tmp_path / "whole"), monkeypatch, **options)
    adopt = final_training.FinalTraining.adopt

    def die(*arguments: Any) -> None:
        if moment == "before its line in the history":
            adopt(*arguments)
        raise KilledError

    with monkeypatch.context() as patch:
        patch.setattr(final_training.FinalTraining, "adopt", die)
        with pytest.raises(KilledError):
            searched(task[0], tmp_path / "run", slower(tmp_path / "run"), patch, **options)
    result = searched(task[0], tmp_path / "run", slower(tmp_path / "run"), monkeypatch, resume=True, **options)
    runs = [history(tmp_path / name) for name in ("whole", "run")]
    changes = [[(s["group"], s["channels"], s["widths"]) for s in steps] for steps in runs]
    assert changes[0] == changes[1]
    assert result.groups == unkilled.groups
    for step in history(tmp_path / "run"):
        file = tmp_path / f"run/iterations/{step['iteration']:03d}/model.onnx"
        dims = {t.name.removesuffix(".weight"): t.dims[0] for t in load(file).proto.graph.initializer}
        assert {name: dims[name] for name in step["widths"]} == step["widths"]


def test_a_model_that_was_not_trained_is_cut_on_and_not_adopted(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class SlowerOnceJudged(DisturbedDevice):
        def ratio(self, *arguments: Any, **options: Any) -> Ratio:
            journal = tmp_path / "run/journal.jsonl"
            self.bias = 1.04 if journal.exists() and "latency/searched" in journal.read_text() else 1.0
            return super().ratio(*arguments, **options)

    result = searched(model, tmp_path / "run", SlowerOnceJudged(quiet), monkeypatch, final_epochs=0)
    assert result.met
    assert all(step["group"] != "the final training" for step in history(tmp_path / "run"))


def test_a_miss_for_want_of_iterations_goes_on_with_more(
    task: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options: dict[str, Any] = {"data": task[1], "evaluate": None, "final_epochs": 1}
    enough = searched(task[0], tmp_path / "a", DisturbedDevice(quiet), monkeypatch, **options).iterations
    run = tmp_path / "run"
    few = searched(task[0], run, slower(run), monkeypatch, max_iterations=enough, **options)
    assert (few.met, few.stopped) == (False, "max-iterations")
    more = searched(task[0], run, slower(run), monkeypatch, max_iterations=enough + 10, resume=True, **options)
    assert more.met


def test_every_target_is_trained_at_length_whatever_the_one_before_needed(
    task: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, epochs: list[int]
) -> None:
    options: dict[str, Any] = {"data": task[1], "evaluate": None, "budget": "latency=0.5x,0.3x"}
    searched(task[0], tmp_path / "run", slower(tmp_path / "run"), monkeypatch, final_epochs=10, **options)
    assert epochs == [10, 2, 10]


def test_a_run_that_an_older_version_began_goes_on(
    task: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It lacks what was added since: fastest runs, what else ran, what was usual; and digests of what it wrote."""
    options: dict[str, Any] = {"data": task[1], "evaluate": None, "final_epochs": 1}
    run = tmp_path / "run"
    searched(task[0], run, DisturbedDevice(quiet), monkeypatch, **options)
    lines = []
    for line in map(json.loads, (run / "journal.jsonl").read_text().splitlines()):
        if "/final/" in line["key"] or line["key"].startswith(("target", "landed", "sha256")):
            continue
        del line["chain"]
        if line["key"].startswith("latency/"):
            for name in ("undisturbed_ms", "others", "cores", "usual_ms"):
                line["value"].pop(name, None)
        lines.append(json.dumps(line) + "\n")
    (run / "journal.jsonl").write_text("".join(lines))
    identity = json.loads((run / "run.json").read_text())
    assert identity.pop("sealed")
    (run / "run.json").write_text(json.dumps(identity))
    for name in ("result.json", ".target-1.json"):
        (run / name).unlink()
    assert searched(task[0], run, DisturbedDevice(quiet), monkeypatch, resume=True, **options).met


def test_int8_accuracy_on_a_device_is_that_of_the_model_in_the_result(
    task: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Undecided, then resumed: other weights."""
    monkeypatch.setattr(device_accuracy, "LocalDevice", type("Other", (), {}))
    calls: list[object] = []

    def answers(device: object, evaluator: object, execution: object, proto: object) -> OnDevice:
        calls.append(proto)
        return OnDevice(0.1 * len(calls), 0.1 * len(calls), 64)

    monkeypatch.setattr(device_accuracy, "_device_accuracy", answers)
    options: dict[str, Any] = {"data": task[1], "evaluate": None, "final_epochs": 1, "deploy": "int8"}
    searched(task[0], tmp_path / "run", DisturbedDevice(hopeless), monkeypatch, **options)
    searched(task[0], tmp_path / "run", DisturbedDevice(quiet), monkeypatch, resume=True, **options)
    assert len(calls) == 2


def test_a_budget_that_only_a_table_judges_is_no_undecided_run(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def mild(rng: np.random.Generator, _: np.ndarray, times: np.ndarray) -> np.ndarray:
        return times * rng.uniform(1, 1.2, (len(times), 1, 2))

    device = DisturbedDevice(mild)

    @contextmanager
    def places(*_: Any, **__: Any) -> Iterator[tuple[TargetDevice, TargetDevice]]:
        yield TargetDevice("latency@a", LocalDevice(), None, None), TargetDevice("latency@b", None, None, Path("x"))

    monkeypatch.setattr(open_budget_checks, "open_target_devices", places)
    monkeypatch.setattr(open_budget_checks, "named_tables", lambda *_: {})
    monkeypatch.setattr(adapt_module, "device_records", lambda *_: {})
    monkeypatch.setattr(open_budget_checks, "_loaded", lambda *_: device)
    monkeypatch.setattr(tables, "built_table", lambda *_, **__: device)
    budgets, both = ["latency@a=0.7x", "latency@b=0.45x"], {"a": "local", "b": "bundle"}
    monkeypatch.setattr(measurements, "ratio", device.ratio)
    result = adapt(model, None, budgets, tmp_path / "run", device=both, evaluate=size, **UNTRAINED)
    assert [limit.met for limit in result.limits] == [True, None]
    assert result.stopped == "met"


def test_what_normalising_meets_for_several_resources_is_a_result(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    proto = overridable(plain((8, 12, 16), size=8, classes=3))
    (tmp_path / "model.onnx").write_bytes(proto.SerializeToString())
    on_device(monkeypatch, NormalisingDevice())
    budgets = ["latency=0.6x", "custom=1x"]
    result = adapt(
        tmp_path / "model.onnx", brightest_channel(tmp_path / "d.npz"), budgets, tmp_path / "run",
        resource_command=lambda _: 5.0, **UNTRAINED,
    )  # fmt: skip
    assert (result.met, result.stopped) == (True, "nothing-to-do")


def test_medians_of_a_busy_device_do_not_steer_what_normalising_gains(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All medians are twice the truth; the fastest runs tell it: 25 ms as given, 10 ms once normalised."""

    class Busy(NormalisingDevice):
        def ratio(self, *arguments: Any, **options: Any) -> Ratio:
            busy = super().ratio(*arguments, **options)
            slow = tuple(tuple(2 * ms for ms in side) for side in busy.sessions_ms)

            def doubled(timing: Timing) -> Timing:
                return replace(timing, median_ms=2 * timing.median_ms, ci95=(2 * timing.ci95[0], 2 * timing.ci95[1]))

            return replace(
                busy, model=doubled(busy.model), reference=doubled(busy.reference), sessions_ms=slow,
                undisturbed_ms=busy.sessions_ms, others=2.0, cores=2,
            )  # fmt: skip

    proto = overridable(plain((8, 12, 16), size=8, classes=3))
    (tmp_path / "model.onnx").write_bytes(proto.SerializeToString())
    on_device(monkeypatch, Busy())
    result = adapt(
        tmp_path / "model.onnx",
        brightest_channel(tmp_path / "d.npz"),
        "latency=8ms",
        tmp_path / "run",
        **UNTRAINED,
    )
    assert result.met is None
    assert result.latency is not None
    assert 0.9 * 8 < result.latency.after_ms < 8


def test_a_final_measurement_that_tells_nothing_trains_no_other_model_on_resume(
    task: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, epochs: list[int]
) -> None:
    run = tmp_path / "run"

    class HopelessOnceTrained(DisturbedDevice):
        def ratio(self, *arguments: Any, **options: Any) -> Ratio:
            self.disturb = hopeless if list(run.glob("iterations/*/trained.onnx")) else quiet
            return super().ratio(*arguments, **options)

    # What is measured after the training is all that counts here: as if nothing reliable had come before.
    careful = check.MeasuredCheck._careful
    monkeypatch.setattr(
        check.MeasuredCheck,
        "_careful",
        lambda check, stage, iteration: (
            check._estimate([check._journal.careful("final", iteration)])
            if stage == "final" and check._journal.has_careful("final", iteration)
            else careful(check, stage, iteration)
        ),
    )
    options: dict[str, Any] = {"data": task[1], "evaluate": None, "final_epochs": 1}
    first = searched(task[0], run, HopelessOnceTrained(quiet, bias=0.8), monkeypatch, **options)
    then = searched(task[0], run, DisturbedDevice(quiet, bias=0.8), monkeypatch, resume=True, **options)
    assert then.met
    assert then.iterations == first.iterations
    assert epochs == [1]
