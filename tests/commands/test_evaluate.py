"""`evaluate --json`: the fields of its document."""

from __future__ import annotations

from pathlib import Path

import pytest

from json_documents import document


def test_evaluate(learnable: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = learnable / "model.onnx"
    output = document(
        capsys, "evaluate", model, model, "--data", learnable / "data.npz", "--split", "test", "--no-latency"
    )
    assert len(output["models"]) == 2
    assert output["models"][0] == output["models"][1]
    one = output["models"][0]
    assert set(one) == {"path", "accuracy", "metric", "split", "resources", "latency_ms", "energy_mj"}
    assert (one["path"], one["metric"], one["split"]) == (str(model), "top1", "test")
    assert 0 <= one["accuracy"] <= 1


def test_evaluate_without_labels_compares_with_the_first(learnable: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = learnable / "model.onnx"
    output = document(capsys, "evaluate", model, "--data", learnable / "unlabelled.npz", "--no-latency")
    assert (output["models"][0]["metric"], output["models"][0]["accuracy"]) == ("agreement", 1.0)
