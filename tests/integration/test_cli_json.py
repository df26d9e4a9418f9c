"""What `--json` prints has the fields that are promised, for every command, and nothing goes to stderr."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import onnx
import pytest

from models import plain
from netadapt_onnx import cli
from sample_data import brightest_channel


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model and data that it can learn: the class is which channel is brightest, of ten shades."""
    place = tmp_path_factory.mktemp("json")
    (place / "model.onnx").write_bytes(plain((8, 16), size=8, classes=3).SerializeToString())
    brightest_channel(place / "data.npz", train=512, val=128, test=128)
    brightest_channel(place / "unlabelled.npz", labelled=False, train=512, val=128, test=128)
    return place


def document(capsys: pytest.CaptureFixture[str], *arguments: object, code: int = 0) -> dict[str, Any]:
    assert cli.run([*map(str, arguments), "--json"]) == code
    out, err = capsys.readouterr()
    assert err == ""
    output: dict[str, Any] = json.loads(out)
    assert output.pop("schema") == 1
    assert output.pop("ok") is (code == 0)
    assert "error" not in output
    return output


RESOURCES = {"params", "macs", "size_bytes", "memory_bytes", "latency_ms"}


def test_inspect(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output = document(capsys, "inspect", folder / "model.onnx")
    assert set(output) == {"model", "layers", "groups"}
    assert set(output["model"]) == RESOURCES
    assert output["model"]["latency_ms"] is None
    assert all(set(layer) == {"name", "op", "params", "macs", "group", "latency_ms"} for layer in output["layers"])
    assert output["groups"][0] == {
        "name": "conv1",
        "channels": 8,
        "step": 1,
        "floor": 1,
        "layers": ["conv1"],
        "prunable": True,
        "reason": None,
    }
    assert output["groups"][-1]["prunable"] is False
    assert "logits" in output["groups"][-1]["reason"]


def test_inspect_explains_only_when_asked(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output = document(capsys, "inspect", folder / "model.onnx", "--explain", "conv1")
    assert set(output) == {"model", "layers", "groups", "explain"}
    assert output["explain"][0]["group"]["name"] == "conv1"
    assert {"tensor": "conv2.weight", "axis": 1, "positions": 8, "length": 8} in output["explain"][0]["constants"]


def test_prune(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output = document(capsys, "prune", folder / "model.onnx", "--ratio", 0.5, "--verify", "-o", tmp_path / "o.onnx")
    assert {"before", "after", "groups", "verify", "model"} <= set(output)
    assert set(output["before"]) == set(output["after"]) == RESOURCES
    assert output["groups"] == {"conv1": [8, 4], "conv2": [16, 8]}
    assert output["verify"]["exact"] is True
    assert output["verify"]["max_rel_diff"] <= 1e-4
    assert output["verify"]["inexact_groups"] == []
    onnx.checker.check_model(str(tmp_path / "o.onnx"), full_check=True)


def test_a_budget_out_of_reach_exits_1(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "o.onnx"
    output = document(capsys, "prune", folder / "model.onnx", "--budget", "params=10", "-o", out, code=1)
    assert output["met"] is False
    assert "misses params=10" in output["note"]
    assert out.exists()


def test_evaluate(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = folder / "model.onnx"
    output = document(
        capsys, "evaluate", model, model, "--data", folder / "data.npz", "--split", "test", "--no-latency"
    )
    assert len(output["models"]) == 2
    assert output["models"][0] == output["models"][1]
    one = output["models"][0]
    assert set(one) == {"path", "accuracy", "metric", "split", "resources", "latency_ms", "energy_mj"}
    assert (one["path"], one["metric"], one["split"]) == (str(model), "top1", "test")
    assert 0 <= one["accuracy"] <= 1


def test_evaluate_without_labels_compares_with_the_first(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = folder / "model.onnx"
    output = document(capsys, "evaluate", model, "--data", folder / "unlabelled.npz", "--no-latency")
    assert (output["models"][0]["metric"], output["models"][0]["accuracy"]) == ("agreement", 1.0)


def test_finetune(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "tuned.onnx"
    output = document(
        capsys, "finetune", folder / "model.onnx", "--data", folder / "data.npz", "-o", out, "--epochs", 4
    )  # fmt: skip
    assert {"accuracy", "seconds", "model"} <= set(output)
    assert set(output["accuracy"]) == {"before", "after", "metric", "split"}
    assert (output["accuracy"]["metric"], output["accuracy"]["split"]) == ("top1", "test")
    assert output["accuracy"]["after"] > 0.9
    assert output["data"] == {"train": 512, "val": 128, "test": 128, "val_from_train": False, "metric": "top1"}
    assert output["model"] == str(out)
    before, after = onnx.load(folder / "model.onnx"), onnx.load(out)
    assert [n.name for n in after.graph.node] == [n.name for n in before.graph.node]
    assert after.graph.input == before.graph.input
    assert {p.key: p.value for p in after.metadata_props}["netadapt_onnx.command"] == "finetune"


def test_finetune_with_every_option(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("tensorboard")
    command = ["finetune", folder / "model.onnx", "--data", folder / "data.npz", "-o", tmp_path / "o.onnx"]
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
    output = document(capsys, *command, "--teacher", folder / "model.onnx", "--seed", 3)
    lines = [json.loads(line) for line in (tmp_path / "o.training.jsonl").read_text().splitlines()]
    assert len(lines) == output["epochs"]
    assert (output["notes"], output["epochs"]) == ([], 5)
    assert [line["steps"] for line in lines] == [8 * (i + 1) for i in range(len(lines))]
    assert (output["lr"], output["lr_test"], output["batch_size"]) == (0.01, None, 64)
    assert list((tmp_path / "t").iterdir())
    assert not (tmp_path / "o.onnx.checkpoint").exists()


def test_finetune_without_labels_needs_a_teacher(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["finetune", str(folder / "model.onnx"), "--data", str(folder / "unlabelled.npz"), "-o"]
    assert cli.run([*command, str(tmp_path / "tuned.onnx")]) == 2
    assert "--teacher" in capsys.readouterr().err
    output = document(
        capsys, *command, tmp_path / "tuned.onnx", "--teacher", folder / "model.onnx", "--epochs", 1
    )  # fmt: skip
    assert output["accuracy"]["metric"] == "agreement"
    assert output["accuracy"]["before"] == 1.0


def test_export(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "net.py").write_text(
        "import torch\n\ndef make():\n    print('noise')\n"
        "    return torch.nn.Conv2d(3, 4, 3), torch.zeros(1, 3, 8, 8)\n"
    )
    command = ["export", f"{tmp_path}/net.py:make", "-o", tmp_path / "net.onnx", "--exporter", "legacy"]
    assert cli.run([*map(str, command), "--json"]) == 0
    out, err = capsys.readouterr()
    assert err == "noise\n"  # what the user's file prints does not break the document
    output = json.loads(out)
    assert {"model", "max_rel_diff", "params"} <= set(output)
    assert output["params"] == 3 * 4 * 9 + 4


def test_env(capsys: pytest.CaptureFixture[str]) -> None:
    output = document(capsys, "env")
    assert set(output) == {"versions", "providers", "cores", "fingerprint", "extras"}
    assert "CPUExecutionProvider" in output["providers"]
    assert {"cpu", "os", "arch", "onnxruntime", "threads"} <= set(output["fingerprint"])
    assert all(set(extra) == {"installed", "enables", "install"} for extra in output["extras"].values())
