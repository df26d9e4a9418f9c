"""The model of an iteration's winner."""

from __future__ import annotations

import itertools
import json
from pathlib import Path

import numpy as np
import pytest

import models
import netadapt_onnx
from netadapt_onnx.search.worker import CALIBRATION_SAMPLES, WorkerContext


def test_a_portfolio_won_by_the_widths_of_the_search_costs_no_solving(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    solved, solve = list[int](), WorkerContext.solve

    def counted(context: WorkerContext, *arguments: object, **options: object) -> object:
        if len(arguments) == 2 and not options:  # with the samples of accepted models, not of proposals
            solved.append(CALIBRATION_SAMPLES)
        return solve(context, *arguments, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(WorkerContext, "solve", counted)
    model, data, run = tmp_path / "model.onnx", tmp_path / "data.npz", tmp_path / "run"
    model.write_bytes(models.plain().SerializeToString())
    x = np.random.default_rng(0).standard_normal((32, 3, 16, 16)).astype(np.float32)
    np.savez(data, x_train=x, x_val=x)
    netadapt_onnx.adapt(model, data, "macs=0.6x", run, preset="fast", final_epochs=0)
    steps = [json.loads(line) for line in (run / "history.jsonl").read_text().splitlines()]
    widths = [step["widths"] for step in steps]
    again = sum(before == after for before, after in itertools.pairwise(widths))
    assert again == 1 and steps[-1]["group"] == "the portfolio"
    assert len(solved) == len(steps) - again
    first, last = (run / "iterations" / f"{n:03d}" / "model.onnx" for n in (len(steps) - 1, len(steps)))
    assert first.read_bytes() == last.read_bytes()
