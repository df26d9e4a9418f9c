"""The demo does the whole job and leaves what its last words speak of (here in short, with a macs budget)."""

from __future__ import annotations

import json
import re
from functools import partial
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch

from netadapt_onnx import cli
from netadapt_onnx.api import demo, demo_network
from netadapt_onnx.api.profile import profile
from netadapt_onnx.common.resources import Resources
from netadapt_onnx.data.metrics import AccuracyChange
from netadapt_onnx.errors import NetadaptError
from netadapt_onnx.search.result import AdaptResult


def test_digits_are_real_images_in_the_layout_of_data() -> None:
    arrays = demo.digits()
    assert {name: arrays[name].shape for name in arrays if name.startswith("x")} == {
        "x_train": (1197, 1, 32, 32),
        "x_val": (300, 1, 32, 32),
        "x_test": (300, 1, 32, 32),
    }
    assert all(arrays[f"x_{split}"].dtype == np.uint8 for split in ("train", "val", "test"))
    assert all(len(np.unique(arrays[f"y_{split}"])) == 10 for split in ("train", "val", "test"))
    scaled = (arrays["x_train"] / 255 - arrays["mean"]) / arrays["std"]
    assert abs(scaled.mean()) < 1e-4
    assert abs(scaled.std() - 1) < 1e-4


def test_a_shortcut_computes_the_same_in_training_and_when_exported() -> None:
    shortcut = demo_network.Shortcut(5, 7, 1, 2, bias=False)
    image = torch.randn(2, 5, 9, 8)
    torch.testing.assert_close(shortcut.train()(image), shortcut.eval()(image))


def test_a_folder_with_files_is_refused_and_only_the_demos_own_are_replaced(tmp_path: Path) -> None:
    (tmp_path / "model.onnx").write_text("old")
    (tmp_path / "thesis.txt").write_text("precious")
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "mine.txt").write_text("precious")
    with pytest.raises(NetadaptError, match="exists"):
        demo._prepare(tmp_path, overwrite=False)
    assert (tmp_path / "model.onnx").exists()
    demo._prepare(tmp_path, overwrite=True)
    assert {str(p.relative_to(tmp_path)) for p in tmp_path.rglob("*.*")} == {"thesis.txt", "run/mine.txt"}
    with pytest.raises(NetadaptError, match="is a file"):
        demo._prepare(tmp_path / "thesis.txt", overwrite=True)


def test_the_demo_leaves_what_it_speaks_of(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(demo_network, "EPOCHS", 1)
    monkeypatch.setattr(demo_network, "WIDTHS", (8, 16, 16))
    monkeypatch.setattr(demo, "FINAL_EPOCHS", 1)
    monkeypatch.setattr(demo, "FIRST_STEP", 0.3)
    monkeypatch.setattr(demo, "BUDGET", "macs=0.7x")
    monkeypatch.setattr(demo, "profile", partial(profile, models=8, time_cap_s=1))
    place = tmp_path / "demo"
    assert cli.run(["demo", "-o", str(place)]) == 0
    out, err = capsys.readouterr()
    assert err == ""
    assert re.search(r"top1 on test: [\d.]+% before; [\d.]+% with the channels removed and\s+nothing else;", out)
    for part in ("iteration", "channels before", "top1 (test)", "macs=0.7x met", "next: netadapt-onnx evaluate"):
        assert part in out
    onnx.checker.check_model(str(place / "run" / "model.onnx"), full_check=True)
    assert (place / "run" / "report.html").exists() and f"and {place / 'run' / 'report.html'}" in out
    assert cli.run(["demo", "-o", str(place), "--json"]) == 2
    assert json.loads(capsys.readouterr().out)["error"]["code"] == "exists"
    # What it suggests to try next works on what it left.
    assert cli.run(["inspect", str(place / "model.onnx"), "--table", str(place / "table.jsonl"), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["model"]["latency_ms"] > 0
    arguments = [str(place / "model.onnx"), str(place / "run" / "model.onnx"), "--data", str(place / "data.npz")]
    assert cli.run(["evaluate", *arguments, "--no-latency", "--json"]) == 0
    assert len(json.loads(capsys.readouterr().out)["models"]) == 2


def test_a_demo_on_a_machine_too_busy_to_tell_exits_with_2(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    resources = Resources(1, 1, 1, 1)
    run = tmp_path / "demo/run"
    run.mkdir(parents=True)
    undecided = AdaptResult(
        met=None, before=resources, after=resources, accuracy=AccuracyChange(1.0, 1.0, "top1", "test"), iterations=1,
        seconds=1.0, model=run / "model.onnx", stopped="could-not-judge", limits=(), groups={},
        notes=("latency=0.6x: could not judge: times vary by 60%",),
    )  # fmt: skip
    monkeypatch.setattr(demo, "demo", lambda *_, **__: undecided)
    monkeypatch.setattr("netadapt_onnx.api.report.write_report", lambda _: ())
    assert cli.run(["demo", "-o", str(tmp_path / "demo"), "--overwrite", "--json"]) == 2
    answer = json.loads(capsys.readouterr().out)
    assert (answer["ok"], answer["error"]["code"]) == (False, "could-not-judge")
    assert "--overwrite" in answer["error"]["hint"]
