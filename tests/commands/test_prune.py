"""`prune --json`: the fields of its document, and its exit code."""

from __future__ import annotations

from pathlib import Path

import onnx
import pytest

from json_documents import RESOURCES, document
from netadapt_onnx import cli


def test_prune(learnable: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output = document(capsys, "prune", learnable / "model.onnx", "--ratio", 0.5, "--verify", "-o", tmp_path / "o.onnx")
    assert {"before", "after", "groups", "verify", "model"} <= set(output)
    assert set(output["before"]) == set(output["after"]) == RESOURCES
    assert output["groups"] == {"conv1": [8, 4], "conv2": [16, 8]}
    assert output["verify"]["exact"] is True
    assert output["verify"]["max_rel_diff"] <= 1e-4
    assert output["verify"]["inexact_groups"] == []
    onnx.checker.check_model(str(tmp_path / "o.onnx"), full_check=True)


def test_a_budget_out_of_reach_exits_1(learnable: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "o.onnx"
    output = document(capsys, "prune", learnable / "model.onnx", "--budget", "params=10", "-o", out, code=1)
    assert output["met"] is False
    assert "misses params=10" in output["note"]
    assert out.exists()


def test_without_a_file_to_write_it_says_that_nothing_was_written(
    learnable: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.run(["prune", str(learnable / "model.onnx"), "--ratio", "0.5", "--verify"]) == 0
    text = capsys.readouterr().out
    assert "verified: the outputs equal those of the original with these channels set to zero" in text
    assert "Nothing was written: -o FILE writes the pruned model.\nnext: netadapt-onnx prune" in text
