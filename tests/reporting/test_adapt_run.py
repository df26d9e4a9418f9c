"""A run of `adapt` is read back whether it has ended, is at work, or was interrupted."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from netadapt_onnx.api.report import read_run
from netadapt_onnx.reporting.adapt_run import AdaptRun, step_change
from netadapt_onnx.search.run_directory.run import lock_directory
from netadapt_onnx.training.validation import Evaluation
from report_runs import finished


def read(run: Path) -> AdaptRun:
    adapt_run = read_run(run)
    assert isinstance(adapt_run, AdaptRun)
    return adapt_run


def test_a_finished_run_has_its_result(tmp_path: Path) -> None:
    run = read(finished(tmp_path))
    assert run.state == "finished" and run.result is not None
    assert [budget.text for budget in run.budgets] == ["macs=0.6x"]
    assert run.changes["macs"].after == run.result.after.macs
    assert "started" in run.about


def test_a_run_without_a_result_is_interrupted_or_running(tmp_path: Path) -> None:
    folder = finished(tmp_path)
    ended = read(folder)
    lock = lock_directory(folder)
    try:
        running = read(folder)
    finally:
        lock.release()
    (folder / "result.json").unlink()
    interrupted = read(folder)
    assert (running.state, interrupted.state) == ("running", "interrupted")
    for run in (running, interrupted):
        assert run.result is None and run.steps == ended.steps
        assert ended.result is not None
        assert run.original["macs"] == ended.result.before.macs
        assert run.budgets[0].limit == pytest.approx(0.6 * ended.result.before.macs)
        assert run.changes["macs"].after == run.steps[-1].resources["macs"]
        assert run.accuracy is not None and run.accuracy.split == "validation"
        kinds = [point.kind for point in run.points]
        assert kinds[0] == "original" and "result" not in kinds


def test_a_run_of_a_version_that_did_not_record_the_original_can_be_read_too(tmp_path: Path) -> None:
    folder = finished(tmp_path)
    (folder / "result.json").unlink()
    recorded = json.loads((folder / "run.json").read_text())
    (folder / "run.json").write_text(json.dumps({**recorded, "sealed": False, "about": {}}))
    lines = [line for line in (folder / "journal.jsonl").read_text().splitlines() if "original/amounts" not in line]
    (folder / "journal.jsonl").write_text("\n".join(lines) + "\n")
    run = read(folder)
    assert run.original == {} and run.budgets[0].limit is None
    assert run.changes["macs"].before is None


def test_a_step_is_measured_where_it_was(tmp_path: Path) -> None:
    step = read(finished(tmp_path)).steps[0]
    accepted = replace(step.accepted, measured={"latency": 6.0}, measured_ci95={"latency": (5.5, 6.5)})
    change = step_change(replace(step, accepted=accepted), "latency", 10.0)
    assert (change.ratio, change.ci95, change.is_predicted) == (0.6, (0.55, 0.65), False)
    assert step_change(replace(step, resources={"latency": 7.0}), "latency", 10.0).is_predicted
    assert not step_change(step, "macs", 10.0).is_predicted


@pytest.mark.parametrize(
    ("accuracies", "was_discarded"), [((0.5, 0.4, 0.45), True), ((0.5, 0.6), False), ((0.5,), True), ((), False)]
)
def test_a_training_that_never_helped_was_discarded(
    tmp_path: Path, accuracies: tuple[float, ...], was_discarded: bool
) -> None:
    evaluations = tuple(Evaluation(10 * number, accuracy) for number, accuracy in enumerate(accuracies))
    run = replace(read(finished(tmp_path)), evaluations=evaluations)
    assert run.was_training_discarded == was_discarded
