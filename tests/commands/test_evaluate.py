"""`evaluate --json`: the fields of its document."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from json_documents import document
from netadapt_onnx import cli


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


def test_labels_in_another_order_than_the_models_are_told(
    tmp_path: Path, learnable: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with np.load(learnable / "data.npz") as data:
        arrays = dict(data)
    rng = np.random.default_rng(0)
    np.savez(tmp_path / "shuffled.npz", **arrays | {"y_val": rng.permutation(arrays["y_val"])})
    words = [learnable / "model.onnx", "--data", tmp_path / "shuffled.npz", "--no-latency"]
    assert cli.run(["evaluate", *map(str, words)]) == 0
    assert "check that classes are numbered" in capsys.readouterr().out
