"""`time`: the fields of its document, its sentences and its exit codes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from models import plain
from netadapt_onnx import cli
from netadapt_onnx.api import measure_latency as api
from netadapt_onnx.api.measure_latency import Interval, Latencies, ModelLatency
from netadapt_onnx.graph.model import save

DEVICE = {"cpu": "a processor", "ep": "cpu", "threads": 1}


def measured(path: str, ms: float, ratio: tuple[float, float, float] | None = None) -> ModelLatency:
    interval = None if ratio is None else Interval(ratio[0], ratio[1:])
    return ModelLatency(Path(path), Interval(ms, (0.99 * ms, 1.01 * ms)), interval, 20)


def run(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *latencies: ModelLatency, code: int = 0
) -> tuple[str, str]:
    """What the command prints on stdout and stderr when it measures these."""
    monkeypatch.setattr(api, "measure_latency", lambda *_, **__: Latencies(latencies, DEVICE))
    assert cli.run(["time", *(str(model.path) for model in latencies)]) == code
    captured = capsys.readouterr()
    return captured.out, captured.err


def test_a_document_of_real_models(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Which exit code it ends with, of two models that differ four times in width, is not for a busy machine to say."""
    paths = [save(plain(widths), tmp_path / f"{widths[0]}.onnx") for widths in ((64, 64), (8, 8))]
    code = cli.run(["time", *map(str, paths), "--max-time", "0.3s", "--json"])
    output: dict[str, Any] = json.loads(capsys.readouterr().out)
    assert output["ok"] is (code == 0)
    assert {"models", "device", "disturbance", "notes"} <= set(output)
    first, second = output["models"]
    assert set(first) == {"path", "latency_ms", "ratio", "sessions"}
    assert first["ratio"] is None and set(second["ratio"]) == {"median", "ci95"} == set(first["latency_ms"])
    assert [model["path"] for model in output["models"]] == list(map(str, paths))


def test_the_answer_comes_first(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    first, faster = measured("a.onnx", 0.8), measured("b.onnx", 0.4, (0.5, 0.49, 0.51))
    slower, same = measured("c.onnx", 1.0, (1.25, 1.2, 1.3)), measured("d.onnx", 0.8, (1.0, 0.99, 1.01))
    lines = run(monkeypatch, capsys, first, faster, slower, same)[0].splitlines()
    assert lines[:3] == [
        "b.onnx is 2.00x faster than a.onnx (0.4 ms, 0.8 ms)",
        "c.onnx is 1.25x slower than a.onnx (1 ms, 0.8 ms)",
        "d.onnx shows no difference from a.onnx (0.8 ms, 0.8 ms)",
    ]
    assert any(line.endswith("0.510x") and "0.500x" in line for line in lines)
    assert lines[-1] == "next: netadapt-onnx diff a.onnx d.onnx"


def test_one_model_has_no_ratio(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    text = run(monkeypatch, capsys, measured("a.onnx", 0.8))[0]
    assert "ratio" not in text and "0.792 to 0.808 ms" in text
    assert text.endswith("next: netadapt-onnx inspect a.onnx\n")


def test_times_that_vary_too_much_decide_nothing(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    models = [measured("a.onnx", 0.8), measured("b.onnx", 0.8, (1.0, 0.8, 1.2))]
    text, complaint = run(monkeypatch, capsys, *models, code=2)
    assert "0.800x to 1.200x" in text  # what was measured is shown all the same
    assert complaint.count("\n") == 1 and "b.onnx is faster or slower than a.onnx cannot be told" in complaint
