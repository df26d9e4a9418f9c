"""The model of an iteration's winner."""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import models
import netadapt_onnx
from netadapt_onnx.search import candidates
from netadapt_onnx.search.calibrations import CALIBRATION_SAMPLES
from netadapt_onnx.search.worker import WorkerContext
from sample_data import brightest_channel
from search_cases import history


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


@pytest.mark.parametrize("options", [{"rank": "finetune", "start": "curves"}, {"preset": "thorough"}])
def test_joint_widths_are_accepted_as_good_as_they_were_evaluated(tmp_path: Path, options: dict[str, Any]) -> None:
    """They are evaluated solved; cut from the current model, or trained for a few steps of much noise, they are not."""
    model, data, run = tmp_path / "model.onnx", tmp_path / "data.npz", tmp_path / "run"
    model.write_bytes(models.plain((8, 12, 16), size=8, classes=3).SerializeToString())
    brightest_channel(data, labelled=False)
    training = {"short_term": 3, "short_term_lr": 0.05, "final_epochs": 0, "portfolio": "solved"}
    netadapt_onnx.adapt(model, data, "macs=0.5x", run, step=2, **training, **options)
    joint = [step for step in history(run) if step["group"] in ("every group", "the portfolio")]
    assert len(joint) == 2
    for step in joint:
        best = max(proposal["accuracy"] for proposal in step["tried"])
        assert step["accepted"]["ranked"] >= best - 1e-4


def test_a_portfolio_whose_only_other_widths_fail_is_won_by_the_search(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The search's own model is not solved again: it counts as one that has not failed."""
    evaluate = candidates.evaluate_proposal

    def failing(*arguments: Any) -> object:
        if arguments[-1]["group"] == "uniform":
            raise ValueError("no such widths")
        return evaluate(*arguments)

    monkeypatch.setattr(candidates, "evaluate_proposal", failing)
    model, data, run = tmp_path / "model.onnx", tmp_path / "data.npz", tmp_path / "run"
    model.write_bytes(models.plain((8, 12, 16), size=8, classes=3).SerializeToString())
    brightest_channel(data)
    assert netadapt_onnx.adapt(model, data, "macs=0.5x", run, preset="fast", step=2, final_epochs=0).met
    last = history(run)[-1]
    assert [(one["group"], one["accuracy"] is None) for one in last["tried"]] == [("curves", False), ("uniform", True)]


def test_a_lone_proposal_that_fails_after_others_have_not_ends_no_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Methods that go on from what they have evaluated may ask for a single model more, again at every resume."""
    evaluate = candidates.evaluate_proposal
    failed: list[str] = []

    def failing(*arguments: Any) -> object:
        if "draw" in arguments[-1]["group"]:
            failed.append(arguments[-1]["group"])
            raise ValueError("no such widths")
        return evaluate(*arguments)

    monkeypatch.setattr(candidates, "evaluate_proposal", failing)
    model, data, run = tmp_path / "model.onnx", tmp_path / "data.npz", tmp_path / "run"
    model.write_bytes(models.plain((8, 12, 16), size=8, classes=3).SerializeToString())
    brightest_channel(data, labelled=False)
    result = netadapt_onnx.adapt(model, data, "macs=0.7x", run, step=1, draws=32, start_share=0.75, final_epochs=0)
    assert result.met
    assert failed
    tried = [proposal for step in history(run) for proposal in step["tried"]]
    assert {proposal["accuracy"] is None for proposal in tried if "draw" in proposal["group"]} == {True}


def test_finalists_of_a_costly_network_are_solved_in_order_and_the_best_wins(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A proposal whose consumers alone were solved may gain most by what lies behind them."""
    monkeypatch.setattr("netadapt_onnx.training.length.MOST_MACS", 0)
    model, data, run = (
        tmp_path / "model.onnx",
        brightest_channel(tmp_path / "data.npz", labelled=False),
        tmp_path / "run",
    )
    model.write_bytes(models.plain((8, 12, 16), size=8, classes=3).SerializeToString())
    options = {"preset": "thorough", "start": "original", "step": 2, "init_reduction_ratio": 0.2, "portfolio": "off"}
    netadapt_onnx.adapt(model, data, "macs=0.6x", run, final_epochs=0, **options)
    steps = history(run)
    assert steps
    for step in steps:
        finalists = [proposal for proposal in step["tried"] if proposal["finetuned"] is not None]
        assert len(finalists) == min(3, len(step["tried"]))
        assert step["group"] in [proposal["group"] for proposal in finalists]
        folder = run / "iterations" / f"{step['iteration']:03d}" / "finalists"
        requests = [json.loads(file.read_text()) for file in folder.glob("*/request.json")]
        assert [(request["in_order"], request["training"]) for request in requests] == [(True, None)] * len(finalists)
