"""`inspect --json`: the fields of its document."""

from __future__ import annotations

from pathlib import Path

import pytest

from json_documents import RESOURCES, document


def test_inspect(learnable: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output = document(capsys, "inspect", learnable / "model.onnx")
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


def test_inspect_explains_only_when_asked(learnable: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output = document(capsys, "inspect", learnable / "model.onnx", "--explain", "conv1")
    assert set(output) == {"model", "layers", "groups", "explain"}
    assert output["explain"][0]["group"]["name"] == "conv1"
    assert {"tensor": "conv2.weight", "axis": 1, "positions": 8, "length": 8} in output["explain"][0]["constants"]
