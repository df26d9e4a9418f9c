"""A bundle of two models, run by hand on a device, says how much faster one is than the other."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from models import plain
from netadapt_onnx import cli
from netadapt_onnx.profilers.bundle import compare
from netadapt_onnx.profilers.bundle.compare import is_comparison, read_comparison
from netadapt_onnx.profilers.timing import TimingPlan


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model, a much smaller one, and what a bundle of both measured on this machine, twice."""
    path = tmp_path_factory.mktemp("compare")
    (path / "model.onnx").write_bytes(plain((96, 96), size=32).SerializeToString())
    (path / "small.onnx").write_bytes(plain((8, 8), size=32).SerializeToString())
    (path / "other.onnx").write_bytes(plain((8, 8), size=16).SerializeToString())
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(compare, "PLAN", TimingPlan(sessions=3, time_cap_s=0.5))
        assert cli.run([*bundling(path, "small.onnx", "model.onnx"), "-q"]) == 0
    for name in ("once", "again"):
        with zipfile.ZipFile(path / "two.zip") as packed:
            packed.extractall(path / name)
        run = ["sh", str(path / name / "two" / "run.sh")]
        subprocess.run(run, env={**os.environ, "PYTHON": sys.executable}, check=True, capture_output=True)
    return path


def bundling(path: Path, model: str, original: str, out: str = "two.zip") -> list[str]:
    return ["profile", "bundle", str(path / model), "--compare", str(path / original), "-o", str(path / out)]


def results(path: Path, *names: str) -> list[str]:
    return [str(path / name / "two" / "results.jsonl") for name in names]


def test_the_smaller_model_is_faster_there(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["profile", "import", *results(folder, "once"), "--json"]) == 0
    answer = json.loads(capsys.readouterr().out)
    assert (answer["model"], answer["original"]) == ("small.onnx", "model.onnx")
    assert answer["ratio"] < 1  # 144 times fewer macs in one of two layers: on any machine
    assert answer["ci95"][0] <= answer["ratio"] <= answer["ci95"][1]
    assert answer["latency_ms"]["median"] < answer["original_latency_ms"]["median"]
    assert answer["device"]["cpu"]
    assert cli.run(["profile", "import", *results(folder, "once")]) == 0
    assert capsys.readouterr().out.startswith("small.onnx is ")


def test_runs_on_one_device_count_together(folder: Path) -> None:
    paths = [Path(file) for file in results(folder, "once", "again")]
    assert all(map(is_comparison, paths))
    sessions = [read_comparison(paths[:n]).ratio.model.sessions for n in (1, 2)]
    assert sessions == [3, 6]


def test_the_zip_says_how_it_is_run_and_read(folder: Path) -> None:
    with zipfile.ZipFile(folder / "two.zip") as packed:
        page = packed.read("two/README.txt").decode()
    assert "the model small.onnx" in page and "sh run.sh" in page
    assert "netadapt-onnx profile import results.jsonl\n" in page


REFUSED = [
    (["small.onnx", "other.onnx"], [], "take different inputs"),
    (["small.onnx", "small.onnx"], [], "compared with itself"),
    (["small.onnx", "model.onnx"], ["--shards", "2"], "--shards"),
    (["small.onnx", "missing.onnx"], [], "no such file"),
]


@pytest.mark.parametrize(("models", "more", "why"), REFUSED)
def test_what_cannot_be_compared_is_refused(
    models: list[str], more: list[str], why: str, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.run([*bundling(folder, *models, out="refused.zip"), *more]) == 2
    assert why in capsys.readouterr().err
    assert not (folder / "refused.zip").exists()


def test_results_of_a_comparison_make_no_table_and_others_need_one(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.run(["profile", "import", *results(folder, "once"), "--table", str(tmp_path / "t.jsonl")]) == 2
    assert "leave --table out" in capsys.readouterr().err
    (tmp_path / "empty.jsonl").touch()
    assert cli.run(["profile", "import", str(tmp_path / "empty.jsonl")]) == 2
    assert "--table" in capsys.readouterr().err
    assert cli.run(["profile", "import", str(tmp_path / "emtpy.jsonl")]) == 2
    assert "no such file; did you mean" in capsys.readouterr().err
