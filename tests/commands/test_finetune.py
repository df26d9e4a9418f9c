"""`finetune --json`: the fields of its document, and what it writes."""

from __future__ import annotations

import json
from pathlib import Path

import onnx
import pytest

from json_documents import document
from netadapt_onnx import cli


def test_finetune(learnable: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "tuned.onnx"
    output = document(
        capsys, "finetune", learnable / "model.onnx", "--data", learnable / "data.npz", "-o", out, "--epochs", 4
    )  # fmt: skip
    assert {"accuracy", "seconds", "model"} <= set(output)
    assert set(output["accuracy"]) == {"before", "after", "metric", "split"}
    assert (output["accuracy"]["metric"], output["accuracy"]["split"]) == ("top1", "test")
    assert output["accuracy"]["after"] > 0.9
    assert output["data"] == {"train": 512, "val": 128, "test": 128, "val_from_train": False, "metric": "top1"}
    assert output["model"] == str(out)
    before, after = onnx.load(learnable / "model.onnx"), onnx.load(out)
    assert [n.name for n in after.graph.node] == [n.name for n in before.graph.node]
    assert after.graph.input == before.graph.input
    assert {p.key: p.value for p in after.metadata_props}["netadapt_onnx.command"] == "finetune"


def test_finetune_with_every_option(learnable: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("tensorboard")
    command = ["finetune", learnable / "model.onnx", "--data", learnable / "data.npz", "-o", tmp_path / "o.onnx"]
    command += ["--epochs", 5]
    command += ["--from-scratch", "--optimizer", "adamw", "--schedule", "cosine", "--weight-decay", 0.01, "--lr", 0.01]
    command += [
        "--batch-size",
        64,
        "--augment",
        "--resume",
        "--tensorboard",
        tmp_path / "t",
    ]
    output = document(capsys, *command, "--teacher", learnable / "model.onnx", "--seed", 3)
    lines = [json.loads(line) for line in (tmp_path / "o.training.jsonl").read_text().splitlines()]
    assert len(lines) == output["epochs"]
    assert (output["notes"], output["epochs"]) == ([], 5)
    assert [line["steps"] for line in lines] == [8 * (i + 1) for i in range(len(lines))]
    assert (output["lr"], output["lr_test"], output["batch_size"]) == (0.01, None, 64)
    assert list((tmp_path / "t").iterdir())
    assert not (tmp_path / "o.onnx.checkpoint").exists()


def test_finetune_without_labels_needs_a_teacher(
    learnable: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["finetune", str(learnable / "model.onnx"), "--data", str(learnable / "unlabelled.npz"), "-o"]
    assert cli.run([*command, str(tmp_path / "tuned.onnx")]) == 2
    assert "--teacher" in capsys.readouterr().err
    output = document(
        capsys, *command, tmp_path / "tuned.onnx", "--teacher", learnable / "model.onnx", "--epochs", 1
    )  # fmt: skip
    assert output["accuracy"]["metric"] == "agreement"
    assert output["accuracy"]["before"] == 1.0
