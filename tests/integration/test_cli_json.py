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
    found: dict[str, Any] = json.loads(out)
    assert found.pop("schema") == 1
    assert found.pop("ok") is (code == 0)
    assert "error" not in found
    return found


RESOURCES = {"params", "macs", "size_bytes", "memory_bytes", "latency_ms"}


def test_inspect(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = document(capsys, "inspect", folder / "model.onnx")
    assert set(found) == {"model", "layers", "groups"}
    assert set(found["model"]) == RESOURCES
    assert found["model"]["latency_ms"] is None
    assert all(set(layer) == {"name", "op", "params", "macs", "group", "latency_ms"} for layer in found["layers"])
    assert found["groups"][0] == {
        "name": "conv1",
        "channels": 8,
        "step": 1,
        "floor": 1,
        "layers": ["conv1"],
        "prunable": True,
        "reason": None,
    }
    assert found["groups"][-1]["prunable"] is False
    assert "logits" in found["groups"][-1]["reason"]


def test_inspect_explains_only_when_asked(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = document(capsys, "inspect", folder / "model.onnx", "--explain", "conv1")
    assert set(found) == {"model", "layers", "groups", "explain"}
    assert found["explain"][0]["group"]["name"] == "conv1"
    assert {"tensor": "conv2.weight", "axis": 1, "positions": 8, "length": 8} in found["explain"][0]["constants"]


def test_prune(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = document(capsys, "prune", folder / "model.onnx", "--ratio", 0.5, "--verify", "-o", tmp_path / "o.onnx")
    assert {"before", "after", "groups", "verify", "model"} <= set(found)
    assert set(found["before"]) == set(found["after"]) == RESOURCES
    assert found["groups"] == {"conv1": [8, 4], "conv2": [16, 8]}
    assert found["verify"]["exact"] is True
    assert found["verify"]["max_rel_diff"] <= 1e-4
    assert found["verify"]["inexact_groups"] == []
    onnx.checker.check_model(str(tmp_path / "o.onnx"), full_check=True)


def test_a_budget_out_of_reach_exits_1(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "o.onnx"
    found = document(capsys, "prune", folder / "model.onnx", "--budget", "params=10", "-o", out, code=1)
    assert found["met"] is False
    assert "misses params=10" in found["note"]
    assert out.exists()


def test_evaluate(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = folder / "model.onnx"
    found = document(capsys, "evaluate", model, model, "--data", folder / "data.npz", "--split", "test", "--no-latency")
    assert len(found["models"]) == 2
    assert found["models"][0] == found["models"][1]
    one = found["models"][0]
    assert set(one) == {"path", "accuracy", "metric", "split", "resources", "latency_ms", "energy_mj"}
    assert (one["path"], one["metric"], one["split"]) == (str(model), "top1", "test")
    assert 0 <= one["accuracy"] <= 1


def test_evaluate_without_labels_compares_with_the_first(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = folder / "model.onnx"
    found = document(capsys, "evaluate", model, "--data", folder / "unlabelled.npz", "--no-latency")
    assert (found["models"][0]["metric"], found["models"][0]["accuracy"]) == ("agreement", 1.0)


def test_finetune(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "tuned.onnx"
    found = document(
        capsys, "finetune", folder / "model.onnx", "--data", folder / "data.npz", "-o", out, "--epochs", 4
    )  # fmt: skip
    assert {"accuracy", "seconds", "model"} <= set(found)
    assert set(found["accuracy"]) == {"before", "after", "metric", "split"}
    assert (found["accuracy"]["metric"], found["accuracy"]["split"]) == ("top1", "test")
    assert found["accuracy"]["after"] > 0.9
    assert found["data"] == {"train": 512, "val": 128, "test": 128, "val_from_train": False, "metric": "top1"}
    assert found["model"] == str(out)
    before, after = onnx.load(folder / "model.onnx"), onnx.load(out)
    assert [n.name for n in after.graph.node] == [n.name for n in before.graph.node]
    assert after.graph.input == before.graph.input
    assert {p.key: p.value for p in after.metadata_props}["netadapt_onnx.command"] == "finetune"


def test_finetune_with_every_option(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("tensorboard")
    given = ["finetune", folder / "model.onnx", "--data", folder / "data.npz", "-o", tmp_path / "o.onnx", "--epochs", 5]
    given += ["--from-scratch", "--optimizer", "adamw", "--schedule", "cosine", "--weight-decay", 0.01, "--lr", 0.01]
    given += [
        "--batch-size",
        64,
        "--augment",
        "--resume",
        "--tensorboard",
        tmp_path / "t",
    ]
    found = document(capsys, *given, "--teacher", folder / "model.onnx", "--seed", 3)
    lines = [json.loads(line) for line in (tmp_path / "o.training.jsonl").read_text().splitlines()]
    assert len(lines) == found["epochs"]
    assert (found["notes"], found["epochs"]) == ([], 5)
    assert [line["steps"] for line in lines] == [8 * (i + 1) for i in range(len(lines))]
    assert (found["lr"], found["lr_test"], found["batch_size"]) == (0.01, None, 64)
    assert list((tmp_path / "t").iterdir())
    assert not (tmp_path / "o.onnx.checkpoint").exists()


def test_finetune_without_labels_needs_a_teacher(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = ["finetune", str(folder / "model.onnx"), "--data", str(folder / "unlabelled.npz"), "-o"]
    assert cli.run([*given, str(tmp_path / "tuned.onnx")]) == 2
    assert "--teacher" in capsys.readouterr().err
    found = document(
        capsys, *given, tmp_path / "tuned.onnx", "--teacher", folder / "model.onnx", "--epochs", 1
    )  # fmt: skip
    assert found["accuracy"]["metric"] == "agreement"
    assert found["accuracy"]["before"] == 1.0


def test_export(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "net.py").write_text(
        "import torch\n\ndef make():\n    print('noise')\n"
        "    return torch.nn.Conv2d(3, 4, 3), torch.zeros(1, 3, 8, 8)\n"
    )
    given = ["export", f"{tmp_path}/net.py:make", "-o", tmp_path / "net.onnx", "--exporter", "legacy"]
    assert cli.run([*map(str, given), "--json"]) == 0
    out, err = capsys.readouterr()
    assert err == "noise\n"  # what the user's file prints does not break the document
    found = json.loads(out)
    assert {"model", "max_rel_diff", "params"} <= set(found)
    assert found["params"] == 3 * 4 * 9 + 4


def test_env(capsys: pytest.CaptureFixture[str]) -> None:
    found = document(capsys, "env")
    assert set(found) == {"versions", "providers", "cores", "fingerprint", "extras"}
    assert "CPUExecutionProvider" in found["providers"]
    assert {"cpu", "os", "arch", "onnxruntime", "threads"} <= set(found["fingerprint"])
    assert all(set(extra) == {"installed", "enables", "install"} for extra in found["extras"].values())
