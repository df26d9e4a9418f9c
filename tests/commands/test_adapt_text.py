"""What `adapt` prints: the result first, one ratio for one thing, both groups of a swap, what only a table predicts."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from models import plain
from netadapt_onnx import cli
from netadapt_onnx.commands._adapt_text import history
from netadapt_onnx.commands.adapt import split_of
from netadapt_onnx.common.resources import Resources
from netadapt_onnx.data.metrics import AccuracyChange
from netadapt_onnx.profilers.devices import opening
from netadapt_onnx.profilers.table import build
from netadapt_onnx.search.netadapt import Accepted, Step
from netadapt_onnx.search.portfolio import PORTFOLIO
from netadapt_onnx.search.proposals import TOGETHER
from netadapt_onnx.search.result import AdaptResult
from netadapt_onnx.search.run_directory import journal
from sample_data import brightest_channel
from simulated_device import SimulatedDevice


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A model, samples, and a table of it from a device on a clock of its own."""
    (tmp_path / "model.onnx").write_bytes(plain((16, 32), size=8, classes=3).SerializeToString())
    brightest_channel(tmp_path / "data.npz", val=64, test=0)
    monkeypatch.chdir(tmp_path)
    for module in (build, opening):
        monkeypatch.setattr(module, "LocalDevice", SimulatedDevice)
    assert cli.run(["profile", "model.onnx", "--table", "there.jsonl", "--max-time", "20s", "-q"]) == 0
    return tmp_path


def adapting(run: str, *more: str) -> list[str]:
    task = ["adapt", "model.onnx", "--data", "data.npz", "-o", run, "--final-epochs", "0", "--portfolio", "off"]
    return [*task, "--start", "original", "--keep-blocks", *more]


def test_the_result_comes_first_then_whether_it_is_met(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    capsys.readouterr()
    assert cli.run(adapting("run", "--budget", "macs=0.5x")) == 0
    first, verdict, *_ = capsys.readouterr().out.splitlines()
    assert "fewer MACs" in first and "accuracy" in first
    assert verdict.startswith("macs=0.5x met: ")


def test_the_row_of_the_result_is_marked(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    capsys.readouterr()
    assert cli.run(adapting("run", "--budget", "macs=0.8x,0.6x", "--step", "2")) == 0
    lines = capsys.readouterr().out.splitlines()
    marks = {line.split("<- ")[1]: line.split()[0] for line in lines if "<- " in line}
    assert set(marks) == {"result for macs=0.8x", "result for macs=0.6x"}
    assert marks["result for macs=0.8x"] < marks["result for macs=0.6x"]


def test_what_only_a_table_predicts_is_marked_and_compared_on_its_device_next(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    capsys.readouterr()
    by_table = ["--table", "there.jsonl", "--device", "bundle"]
    assert cli.run(adapting("run", "--budget", "latency=0.7x", *by_table)) == 0
    out = capsys.readouterr().out
    assert out.startswith("predicted to be ")
    assert "latency=0.7x predicted to be met: " in out
    row = next(line for line in out.splitlines() if line.startswith("latency (predicted)"))
    assert row.endswith("x")
    assert "next: netadapt-onnx profile bundle run/model.onnx --compare model.onnx -o run-compare.zip" in out


def test_a_budget_that_only_a_table_judges_and_no_widths_meet_says_the_smallest(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    by_table = ["--table", "there.jsonl", "--device", "bundle"]
    assert cli.run(adapting("run", "--budget", "latency=0.01x", *by_table, "--json")) == 1
    notes = json.loads(capsys.readouterr().out)["notes"]
    (note,) = [note for note in notes if note.startswith("No widths meet the budget")]
    share = float(note.partition("is predicted to still take ")[2].partition("x")[0])
    assert 0.01 < share < 1


def test_a_plan_says_that_no_widths_meet_a_budget(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for start in ("original", "curves"):
        planned = [
            *adapting("run", "--budget", "latency=0.01x", "--table", "there.jsonl", "--dry-run"),
            "--start",
            start,
        ]
        assert cli.run(planned) == 0
        out = capsys.readouterr().out
        assert "No widths meet the budget: the narrowest model is predicted to still take 0." in out
    assert cli.run(adapting("run", "--budget", "macs=0.8x", "--dry-run")) == 0
    assert "No widths" not in capsys.readouterr().out


def step(iteration: int, group: str, channels: tuple[int, int], **widths: int) -> Step:
    accepted = Accepted(accuracy=0.5, ranked=0.5, correction={})
    return Step(iteration, group, channels, widths, "macs", 1.0, {"macs": 1000.0}, accepted, (), ())


def test_a_swap_shows_both_groups(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    steps = [step(1, "conv1", (16, 8), conv1=8, conv2=32), step(2, "conv1", (8, 16), conv1=16, conv2=24)]
    monkeypatch.setattr(journal, "read_history", lambda *_: steps)
    result = _result({"conv1": (16, 16), "conv2": (32, 24)}, iterations=2)
    first, second, third = history(tmp_path, result).splitlines()[2:5]
    assert first.split()[:4] == ["1", "conv1", "16", "8"]
    assert second.split()[:4] == ["2", "conv1", "8", "16"] and second.endswith("<- result")
    assert third.split() == ["conv2", "32", "24"]


@pytest.mark.parametrize(("split", "options"), [("test", ["--split", "test"]), ("val", [])])
def test_the_next_step_shows_the_accuracies_of_the_result_again(split: str, options: list[str]) -> None:
    result = _result({}, iterations=1)
    assert split_of(replace(result, accuracy=replace(result.accuracy, split=split))) == options


def test_steps_of_all_groups_are_named_as_on_the_page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    steps = [step(1, TOGETHER, (48, 32), conv1=8, conv2=24), step(2, PORTFOLIO, (32, 33), conv1=8, conv2=25)]
    monkeypatch.setattr(journal, "read_history", lambda *_: steps)
    text = history(tmp_path, _result({"conv1": (16, 8), "conv2": (32, 25)}, iterations=2))
    assert "all groups at once" in text and "the best of several methods" in text
    assert "portfolio" not in text and "the best of several methods: the widths reached so far competed" in text
    monkeypatch.setattr(journal, "read_history", lambda *_: steps[:1])
    assert "competed" not in history(tmp_path, _result({"conv1": (16, 8)}, iterations=1))


def _result(groups: dict[str, tuple[int, int]], iterations: int) -> AdaptResult:
    cost = Resources(1, 1, 1, 1)
    accuracy = AccuracyChange(0.5, 0.5, "top1", "val")
    return AdaptResult(
        met=True, before=cost, after=cost, accuracy=accuracy, iterations=iterations, model=Path("model.onnx"),
        stopped="met", limits=(), groups=groups, seconds=1.0,
    )  # fmt: skip
