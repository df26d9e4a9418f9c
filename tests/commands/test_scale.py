"""`scale` as a command: one document with the contract's keys, and one line for every bad input."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

import models
import netadapt_onnx
from netadapt_onnx.cli import run as command
from netadapt_onnx.common import render
from netadapt_onnx.scaling import latency_target

WIDTHS, EXPONENTS = (8, 12, 16), (0.3, 0.5, 0.65)
MODEL_KEYS = {"target", "resources", "widths", "accuracy", "model"}
FAST = ["--iterations", "1", "--batches", "1", "--epochs", "1"]


@pytest.fixture(autouse=True)
def scale_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a network, another one, records of the network, and data with and without labels."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(latency_target, "BRIEF_S", 0.05)
    onnx.save(models.plain(WIDTHS, size=8, classes=3), "net.onnx")
    onnx.save(models.residual(8, size=8), "other.onnx")
    for name, rows in (("record", 40), ("short", 5)):
        tau = np.geomspace(3000, 150, rows)
        columns = [w * (tau / 3000) ** b for w, b in zip(WIDTHS, EXPONENTS, strict=True)]
        lines = ["conv1,conv2,conv3,params"]
        lines += [",".join(f"{v:.6f}" for v in row) for row in zip(*columns, tau, strict=True)]
        Path(f"{name}.csv").write_text("\n".join(lines) + "\n")
    rng = np.random.default_rng(0)
    x, y = rng.normal(0, 1, (160, 3, 8, 8)).astype(np.float32), rng.integers(0, 3, 160)
    np.savez("data.npz", x_train=x[:128], y_train=y[:128], x_val=x[128:], y_val=y[128:])
    np.savez("plain.npz", x_train=x[:128], x_val=x[128:])
    return tmp_path


def scale(capsys: pytest.CaptureFixture[str], *arguments: str, code: int = 0) -> dict[str, Any]:
    assert command(["scale", *arguments, "--json"]) == code
    streams = capsys.readouterr()
    document: dict[str, Any] = json.loads(streams.out)
    assert document["schema"] == 1 and document["ok"] is (code == 0)
    assert len(streams.err.strip().splitlines()) == (code == 2) or code == 0
    return document


def test_several_targets_seeds_and_warm_ups_in_one_run(capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["net.onnx", "--data", "data.npz", "--targets", "0.5x,1x,2x", "-o", "run", "--seeds", "2"]
    output = scale(capsys, *arguments, "--warmup-epochs", "1,2", *FAST)
    assert [set(group) for group in output["groups"]] == [{"name", "alpha", "beta", "rows", "r2"}] * 3
    assert [(m["target"], m["warmup_epochs"]) for m in output["models"]] == [
        (f"params={share}x", epochs) for epochs in (1, 2) for share in ("0.5", "1", "2")
    ]
    for model in output["models"]:
        assert set(model) >= MODEL_KEYS and Path(model["model"]).is_file()
        assert {"mean", "std", "metric"} <= set(model["accuracy"]) and len(model["accuracy"]["values"]) == 2
        assert set(model["widths"]) == {"conv1", "conv2", "conv3"}
        assert model["resources"]["params"] <= float(model["target"][7:-1]) * 3045 + 500
    assert len({m["model"] for m in output["models"]}) == 6
    assert Path("run/widths-warmup2.toml").read_text() == Path("run/widths.toml").read_text()
    assert Path("run/widths-warmup1.toml").read_text() != Path("run/widths.toml").read_text()
    stored = json.loads(Path("run/result.json").read_text())
    assert stored["models"] == [m | {"model": str(Path(m["model"]).relative_to("run"))} for m in output["models"]]

    again = scale(capsys, *arguments, "--warmup-epochs", "1,2", *FAST, "--resume")
    assert again["models"] == output["models"]
    refused = scale(capsys, *arguments, "--warmup-epochs", "1", *FAST, "--resume", code=2)
    assert "warmup_epochs" in refused["error"]["message"]


def test_recorded_widths_give_a_law_with_and_without_a_model(capsys: pytest.CaptureFixture[str]) -> None:
    alone = scale(capsys, "--fit", "record.csv")
    assert [group["beta"] for group in alone["groups"]] == pytest.approx(EXPONENTS, abs=1e-4)
    assert alone["models"] == []
    fitted = scale(capsys, "net.onnx", "--fit", "record.csv", "--target", "params=1500", "-o", "fitted")
    assert fitted["groups"] == alone["groups"]
    (model,) = fitted["models"]
    assert model["accuracy"] is None and 1300 < model["resources"]["params"] <= 1500
    assert Path("fitted/plots/laws.svg").is_file()

    law = scale(capsys, "net.onnx", "--law", "fitted/widths.toml", "--target", "params=1500", "-o", "again")
    assert law["models"][0]["widths"] == model["widths"]
    trained = ["net.onnx", "--law", "fitted/widths.toml", "--target", "macs=0.5x", "--data", "data.npz", *FAST]
    output = scale(capsys, *trained, "-o", "trained")
    assert output["models"][0]["accuracy"]["metric"] == "top1"


def test_the_text_names_laws_widths_and_files(capsys: pytest.CaptureFixture[str]) -> None:
    assert command(["scale", "net.onnx", "--fit", "record.csv", "--targets", "0.5x,2x", "-o", "run"]) == 0
    text = capsys.readouterr().out
    for expected in ("alpha", "conv3", "params=0.5x", "wrote run/models/params=2x/model.onnx"):
        assert expected in text
    assert "group      original" in text
    original = netadapt_onnx.inspect("net.onnx").model
    (row,) = [line.split() for line in text.splitlines() if line.startswith("original ")]
    assert " ".join(row[1:]) == f"{render.count(original.params)} {render.count(original.macs)}"
    assert command(text.partition("next: netadapt-onnx ")[2].split()) == 0
    capsys.readouterr()


def test_what_to_run_next_has_the_data_of_the_run(capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["scale", "net.onnx", "--data", "data.npz", "--task", "classification", "--target", "params=0.5x"]
    assert command([*arguments, "-o", "run", "--warmup-epochs", "1", *FAST]) == 0
    text = capsys.readouterr().out
    assert not any(
        "0.0 %" in line for line in text.splitlines() if line.startswith("params=0.5x")
    )  # one seed, no spread
    words = text.partition("next: netadapt-onnx ")[2].split()
    assert words[-4:] == ["--data", "data.npz", "--task", "classification"]
    assert command([*words, "--no-latency"]) == 0


def test_fewer_than_six_records_scale_uniformly_and_say_so(capsys: pytest.CaptureFixture[str]) -> None:
    output = scale(capsys, "net.onnx", "--fit", "short.csv", "--target", "params=0.5x", "-o", "run")
    assert output["notes"] == ["fewer than 6 records: widths are scaled uniformly"]


def test_unlabelled_data_are_distilled_and_that_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["net.onnx", "--data", "plain.npz", "--target", "params=0.6x", "-o", "run"]
    output = scale(capsys, *arguments, "--warmup-epochs", "1", *FAST)
    assert output["models"][0]["accuracy"]["metric"] == "agreement"
    assert any("no labels" in note for note in output["notes"])


RECORDED = ["net.onnx", "--fit", "record.csv", "-o", "run", "--target"]


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        ([*RECORDED, "params=3"], "target", "the narrowest network still costs"),
        ([*RECORDED, "params=1e15"], "target", "too much for this machine"),
        ([*RECORDED, "speed=2x"], "budget", "unknown resource 'speed'"),
        ([*RECORDED, "params=-1"], "budget", "params=-1"),
        (["net.onnx", "--fit", "record.csv", "--targets", "0.5x,,2x", "-o", "run"], "budget", "params="),
        (["other.onnx", "--fit", "record.csv", "--target", "params=0.5x"], None, None),
        (["net.onnx", "--fit", "missing.csv", "--target", "params=0.5x"], "record", "missing.csv"),
        (["net.onnx", "--law", "missing.toml", "--target", "params=0.5x"], "law", "missing.toml"),
        (["net.onnx", "--law", "a.toml", "--fit", "b.csv", "--target", "params=0.5x"], "usage", "--law or --fit"),
        (["net.onnx", "--fit", "record.csv"], "usage", "no target"),
        (["net.onnx", "--target", "params=0.5x", "-o", "run"], "usage", "no data"),
        (["net.onnx", "--data", "data.npz", "--target", "params=0.5x"], "usage", "no run directory"),
        (["--target", "params=0.5x"], "usage", "nothing to scale"),
        ([*RECORDED, "params=0.5x", "--seeds", "0"], "usage", "--seeds 0: at least 1"),
        ([*RECORDED, "params=0.5x", "--iterations", "0"], "usage", "--iterations 0: at least 1"),
        ([*RECORDED, "params=0.5x", "--batches", "0"], "usage", "--batches 0: at least 1"),
        ([*RECORDED, "params=0.5x", "--warmup-epochs", "1,x"], "usage", "1,x"),
        ([*RECORDED, "params=0.5x", "--warmup-epochs=-1"], "usage", "--warmup-epochs"),
        ([*RECORDED, "params=0.5x", "--lr", "0"], "usage", "--lr 0"),
        ([*RECORDED, "params=0.5x", "--lr", "nan"], "usage", "--lr nan"),
        ([*RECORDED, "params=0.5x", "--method", "best"], "usage", "best"),
    ],
)
def test_bad_input_is_one_line(
    capsys: pytest.CaptureFixture[str], arguments: list[str], code: str | None, message: str | None
) -> None:
    if code is None:
        code, message = "other-model", "the record has 3 groups, the model"
        onnx.save(models.resnet(size=8), "other.onnx")
    error = scale(capsys, *arguments, code=2)["error"]
    assert error["code"] == code
    assert message in error["message"] + (error["hint"] or "")
    assert not Path("run/models").exists()


def test_a_law_of_another_model_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    scale(capsys, "net.onnx", "--fit", "record.csv", "--target", "params=0.5x", "-o", "run")
    error = scale(capsys, "other.onnx", "--law", "run/widths.toml", "--target", "params=0.5x", "-o", "x", code=2)[
        "error"
    ]
    assert error["code"] == "other-model" and "law of another model" in error["message"]


@pytest.mark.parametrize(
    ("text", "targets"),
    [
        ("0.25x,0.5x", ["params=0.25x", "params=0.5x"]),
        ("macs=0.5x,0.75x", ["macs=0.5x", "macs=0.75x"]),
        ("0.5x,macs=0.5x,0.75x", ["params=0.5x", "macs=0.5x", "macs=0.75x"]),
        ("macs=0.5x, macs=0.75x", ["macs=0.5x", "macs=0.75x"]),
    ],
)
def test_a_resource_holds_for_the_targets_behind_it(
    text: str, targets: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    output = scale(capsys, "net.onnx", "--method", "uniform", "--targets", text, "-o", "named")
    assert [model["target"] for model in output["models"]] == targets
