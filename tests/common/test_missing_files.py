"""A misspelt path gets the nearest that exists, whatever command, argument or option it is of."""

from __future__ import annotations

from pathlib import Path

import pytest

from gate_fixtures import run, save, small
from netadapt_onnx.common.missing_files import missing_file, nearest_path


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in (
        "models/detector.onnx",
        "models/detector.toml",
        "data.npz",
        "table.jsonl",
        ".data.npx",
        "runs/first/a",
    ):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    ("wrong", "right"),
    [
        ("models/detctor.onnx", "models/detector.onnx"),
        ("models/Detector.onnx", "models/detector.onnx"),
        ("modells/detector.onnx", "models/detector.onnx"),
        ("model/detektor.onnx", "models/detector.onnx"),
        ("models/detector.onx", "models/detector.onnx"),
        ("models/detector", "models/detector.onnx"),
        ("dataa.npz", "data.npz"),
        ("data.npx", "data.npz"),
        ("tabel.jsonl", "table.jsonl"),
        ("runs/frist", "runs/first"),
    ],
)
def test_the_nearest_path_is_proposed(wrong: str, right: str, folder: Path) -> None:
    assert nearest_path(wrong) == f"did you mean {right}?"
    assert nearest_path(folder / wrong) == f"did you mean {folder / right}?"


@pytest.mark.parametrize("wrong", ["m.onnx", "elsewhere/x.npz", "data.toml", "data.npz/x", "", "a\x00b", "x" * 5000])
def test_nothing_is_proposed_where_nothing_is_near(wrong: str, folder: Path) -> None:
    assert nearest_path(wrong, "name a file") == "name a file"


def test_the_error_says_what_is_missing(folder: Path) -> None:
    error = missing_file("dat.npz", flag="--data")
    assert str(error) == "--data dat.npz: no such file; did you mean data.npz?"
    assert error.code == "missing-file"


def test_a_folder_is_called_one(folder: Path) -> None:
    error = missing_file("models", flag="--table")
    assert str(error) == "--table models is a folder; name a file"
    assert str(missing_file("models", what="not a run directory")) == "models: not a run directory"


def test_a_missing_baseline_is_named_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    save(small(), tmp_path / "m.onnx")
    error = run(capsys, "gate", "m.onnx", "--max-increase", "size=2%", "--baseline", "before.onnx", code=2)
    assert "size increase: the baseline before.onnx: no such file" in error


COMMANDS = {
    "inspect": "inspect modle.onnx",
    "inspect --table": "inspect model.onnx --table tabel.jsonl",
    "inspect --data": "inspect model.onnx --sensitivity --data dta.npz",
    "prune": "prune modle.onnx --ratio 0.5",
    "prune --plan": "prune model.onnx --plan paln.toml",
    "prune --table": "prune model.onnx --ratio 0.5 --table tabel.jsonl",
    "profile": "profile modle.onnx --table t.jsonl",
    "profile bundle": "profile bundle modle.onnx -o b.zip",
    "profile bundle --compare": "profile bundle model.onnx --compare modle.onnx -o b.zip",
    "time": "time modle.onnx",
    "inspect --graph": "inspect model.onnx --graph rusn/x.html",
    "profile import": "profile import reslts.jsonl --table t.jsonl",
    "evaluate": "evaluate modle.onnx --data data.npz",
    "evaluate --data": "evaluate model.onnx --data dta.npz",
    "adapt": "adapt modle.onnx --data data.npz --budget macs=0.5x -o run2",
    "adapt --data": "adapt model.onnx --data dta.npz --budget macs=0.5x -o run2",
    "adapt --table": "adapt model.onnx --data data.npz --budget latency=0.5x --table tabel.jsonl -o run2",
    "adapt -o": "adapt model.onnx --data data.npz --budget macs=0.5x -o rusn/x",
    "finetune": "finetune modle.onnx --data data.npz -o out.onnx",
    "finetune --data": "finetune model.onnx --data dta.npz -o out.onnx",
    "finetune --teacher": "finetune model.onnx --data data.npz --teacher modle.onnx -o out.onnx",
    "scale": "scale modle.onnx --target params=0.5x --method uniform -o run2",
    "scale --law": "scale model.onnx --target params=0.5x --law paln.toml -o run2",
    "scale --fit": "scale model.onnx --target params=0.5x --fit recrod.csv -o run2",
    "scale --table": "scale model.onnx --target latency=0.5x --method uniform --table tabel.jsonl -o run2",
    "gate": "gate modle.onnx --max size=1MB",
    "gate --config": "gate model.onnx --max size=1MB --config netadpt.toml",
    "gate --baseline": "gate model.onnx --max-increase size=1% --baseline basline.json",
    "gate --output": "gate model.onnx --max size=1MB --output json=rusn/x.json",
    "diff": "diff model.onnx modle.onnx",
    "report": "report rn",
    "restore": "restore rn --iteration 1 -o out.onnx",
    "export": "export modle.py:network -o out.onnx",
    "demo": "demo -o rusn/x",
}


@pytest.mark.parametrize("case", COMMANDS)
def test_every_command_proposes_the_nearest_path(
    case: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import numpy as np

    monkeypatch.chdir(tmp_path)
    save(small(), tmp_path / "model.onnx")
    pictures = np.zeros((20, 3, 16, 16), np.float32)
    np.savez(
        tmp_path / "data.npz", x_train=pictures, y_train=np.arange(20) % 10, x_val=pictures, y_val=np.arange(20) % 10
    )
    names = ("plan.toml", "table.jsonl", "record.csv", "netadapt.toml", "baseline.json", "results.jsonl", "model.py")
    for name in names:
        (tmp_path / name).touch()
    (tmp_path / "run").mkdir()
    (tmp_path / "runs").mkdir()
    assert "did you mean" in run(capsys, *COMMANDS[case].split(), code=2)
