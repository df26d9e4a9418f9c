"""`adapt --live` rewrites the page after every iteration; it reloads itself while the run is on, and then stops."""

from __future__ import annotations

import json
from pathlib import Path

import onnx
import pytest

import models
import netadapt_onnx
from netadapt_onnx.api import live_report
from netadapt_onnx.errors import NetadaptError
from netadapt_onnx.reporting import REPORT_FILE

RELOADS = '<meta http-equiv="refresh"'


@pytest.fixture
def model(tmp_path: Path) -> Path:
    b = models.Builder()
    x = b.relu(b.conv("image", 3, 8, name="conv1"))
    b.head(b.relu(b.conv(x, 8, 12, name="conv2")), 12)
    onnx.save(b.model({"image": ("N", 3, 8, 8)}, {"logits": ("N", 10)}), tmp_path / "model.onnx")
    return tmp_path / "model.onnx"


def adapt(model: Path, run: Path, **options: object) -> None:
    netadapt_onnx.adapt(
        model,
        None,
        "macs=0.6x",
        run,
        step=1,
        init_reduction_ratio=0.15,
        evaluate=lambda proto: min(1.0, proto.ByteSize() / 8000),
        **options,  # type: ignore[arg-type]
    )


def pages(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The texts of all pages that are written from here on."""
    texts: list[str] = []
    write = live_report.write_report

    def recorded(run: Path, *, live: bool) -> tuple[str, ...]:
        notes = write(run, live=live)
        texts.append((run / REPORT_FILE).read_text(encoding="utf-8"))
        return notes

    monkeypatch.setattr(live_report, "write_report", recorded)
    return texts


def test_the_page_is_rewritten_after_each_iteration_and_reloads_until_the_end(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    texts = pages(monkeypatch)
    adapt(model, tmp_path / "run", live=True)
    steps = len((tmp_path / "run" / "history.jsonl").read_text().splitlines())
    assert len(texts) == steps + 2  # at the beginning, after each iteration, and at the end
    assert [RELOADS in text for text in texts] == [True] * (steps + 1) + [False]
    assert "Running: 0 iterations so far" in texts[0]
    assert "Running: 1 iteration so far" in texts[1]
    assert "Running:" not in texts[-1] and "fewer MACs" in texts[-1]


def test_the_page_of_a_run_that_breaks_off_says_so(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    texts = pages(monkeypatch)

    def interrupt(line: str) -> None:
        if line.startswith("iteration 2"):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        adapt(model, tmp_path / "run", live=True, log=interrupt)
    assert "Interrupted after 2 iterations" in texts[-1] and RELOADS not in texts[-1]


def test_a_run_goes_on_with_or_without_the_page_to_the_same_result(model: Path, tmp_path: Path) -> None:
    def interrupt(line: str) -> None:
        if line.startswith("iteration 2"):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        adapt(model, tmp_path / "run", log=interrupt)
    assert not (tmp_path / "run" / REPORT_FILE).exists()
    adapt(model, tmp_path / "run", live=True, resume=True)
    adapt(model, tmp_path / "other")
    results = [json.loads((tmp_path / name / "result.json").read_text()) for name in ("run", "other")]
    assert {**results[0], "seconds": 0} == {**results[1], "seconds": 0}
    assert (tmp_path / "run" / REPORT_FILE).exists()


def test_a_page_that_cannot_be_written_costs_a_line_and_not_the_run(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> tuple[str, ...]:
        raise NetadaptError("history.jsonl, line 1: damaged", code="corrupt-run")

    monkeypatch.setattr(live_report, "write_report", refuse)
    lines: list[str] = []
    adapt(model, tmp_path / "run", live=True, log=lines.append)
    assert len([line for line in lines if "was not written: history.jsonl, line 1: damaged" in line]) == 1
    assert (tmp_path / "run" / "result.json").exists()


def test_without_what_draws_charts_nothing_begins(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("netadapt_onnx.common.charts.available", lambda: False)
    with pytest.raises(NetadaptError, match="vl-convert-python"):
        adapt(model, tmp_path / "run", live=True)
    assert not (tmp_path / "run").exists()
