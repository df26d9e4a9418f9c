"""The coverage benchmark's judge: it recognises a right cut by another tool, and can fail."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

import models
from netadapt_onnx.graph.fold_shapes import fold
from netadapt_onnx.graph.model import load, save
from netadapt_onnx.surgery.criteria.selection import select
from netadapt_onnx.surgery.resize import resize
from netadapt_onnx.surgery.trace import Trace, trace

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"
sys.path.append(str(BENCHMARKS))

import coverage_rows  # noqa: E402
import pruners  # noqa: E402
import result_tables  # noqa: E402


@pytest.fixture
def original(tmp_path: Path) -> Path:
    return save(models.residual(), tmp_path / "model.onnx")


def cut(original: Path, by: str) -> tuple[Trace, dict[str, np.ndarray], onnx.ModelProto]:
    model_trace = trace(fold(load(original).proto))
    keep = select(model_trace, {g.name: g.channels // 2 for g in model_trace.prunable}, by)
    return model_trace, keep, resize(model_trace, keep)


@pytest.mark.parametrize("by", ["l2", "random"])
def test_kept_channels_are_read_off_the_vectors_that_are_left(original: Path, by: str) -> None:
    model_trace, keep, small = cut(original, by)
    for i, node in enumerate(small.graph.node):
        node.name = f"renamed{i}"
    read = pruners.kept_channels(model_trace, small)
    assert not isinstance(read, str)
    assert read.keys() == keep.keys()
    assert all(np.array_equal(read[name], keep[name]) for name in keep)


def test_the_judge_tells_a_right_cut_from_a_wrong_one(original: Path, tmp_path: Path) -> None:
    _, _, small = cut(original, "random")
    right = pruners.compared_outcome(original, save(small, tmp_path / "right.onnx"), 1.0)
    assert right.equal is True
    assert right.smaller
    weight = next(t for t in small.graph.initializer if t.name == "conv3.weight")
    value = numpy_helper.to_array(weight)
    weight.CopyFrom(numpy_helper.from_array(np.ascontiguousarray(value[:, ::-1]), weight.name))
    wrong = pruners.compared_outcome(original, save(small, tmp_path / "wrong.onnx"), 1.0)
    assert wrong.equal is False
    weight.CopyFrom(numpy_helper.from_array(np.ascontiguousarray(value[:, 1:]), weight.name))
    onnx.save(small, tmp_path / "broken.onnx")
    broken = pruners.compared_outcome(original, tmp_path / "broken.onnx", 1.0)
    assert not broken.smaller
    assert "does not run" in broken.failure


def test_our_own_outcome_is_proven(original: Path, tmp_path: Path) -> None:
    outcome = pruners.ours(original, 0.5, tmp_path)
    assert outcome.smaller
    assert outcome.equal
    assert outcome.macs is not None
    assert outcome.macs < 0.35


def test_the_table_counts_what_the_results_say() -> None:
    def result(model: str, pruner: str, **outcome: object) -> dict[str, object]:
        case = {"suite": "torchvision", "model": model, "exporter": "legacy", "pruner": pruner, "ratio": 0.5}
        return {"case": case, "outcome": outcome, "time": "2026-01-01"}

    results = [
        result("a", "netadapt-onnx", smaller=True, macs=0.2, equal=True, seconds=1.0, proof_seconds=2.0, note=""),
        result("b", "netadapt-onnx", smaller=True, macs=0.4, equal=True, seconds=3.0, proof_seconds=2.0, note=""),
        result("a", "onnxsim", smaller=True, macs=0.6, equal=False, difference=0.5, seconds=1.0, note=""),
        result("b", "onnxsim", failure="no result within 300 s"),
    ]
    summary = result_tables.coverage_summary(coverage_rows.summary_rows(results)).splitlines()
    (ours,) = (line for line in summary if "netadapt-onnx (legacy)" in line)
    (peer,) = (line for line in summary if "onnxsim (legacy)" in line)
    assert "2 of 2" in ours and "0.300x" in ours and "2.0" in ours
    assert "1 of 2" in peer and "0 / 1 / 0" in peer
    page = result_tables.coverage(coverage_rows.case_rows(results))
    rows = {line.split("|")[1].strip(): line for line in page.splitlines() if line.startswith("|")}
    assert "fails" in rows["b"]
    assert "NO" in rows["a"]
    assert "0.200 yes 1.0" in rows["a"]
    assert "- b, onnxsim (legacy): no result within 300 s" in page
