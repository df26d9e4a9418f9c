"""Models brought back from the middle of a search."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

import netadapt_onnx
from netadapt_onnx.cli import run as command
from netadapt_onnx.errors import NetadaptError
from search_cases import KNOWN_WIDTHS, adapt_hello_world, hello_world, looked_up, widths_of


def test_any_iteration_can_be_restored_and_its_plan_replayed(tmp_path: Path) -> None:
    original = hello_world(tmp_path)
    adapt_hello_world(tmp_path)
    for iteration, expected in enumerate(KNOWN_WIDTHS, 1):
        result = netadapt_onnx.restore(tmp_path / "run", iteration, tmp_path / f"{iteration}.onnx")
        proto = onnx.load(result.model)
        assert widths_of(proto) == expected == tuple(result.widths.values())
        assert result.accuracy == looked_up(proto) / 100
        netadapt_onnx.prune(original, tmp_path / f"again{iteration}.onnx", plan=result.plan)
        again = onnx.load(tmp_path / f"again{iteration}.onnx")
        for a, b in zip(proto.graph.initializer, again.graph.initializer, strict=True):
            np.testing.assert_array_equal(numpy_helper.to_array(a), numpy_helper.to_array(b))


def test_what_cannot_be_restored_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    hello_world(tmp_path)
    adapt_hello_world(tmp_path, save_interval=2)
    run = tmp_path / "run"
    assert command(["restore", str(run), "--iteration", "2", "-o", str(tmp_path / "2.onnx"), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["iteration"] == 2
    for folder, iteration, message in (
        (run, 1, "was not kept.*kept: 2, 3"),
        (run, 9, "no iteration 9; it has 1 to 3"),
        (tmp_path, 1, "not a run directory"),
    ):
        with pytest.raises(NetadaptError, match=message):
            netadapt_onnx.restore(folder, iteration, tmp_path / "no.onnx")
    with pytest.raises(NetadaptError, match="exists"):
        netadapt_onnx.restore(run, 2, tmp_path / "2.onnx")
