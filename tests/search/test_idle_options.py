"""Options that change nothing beside the others are named, each with what it is for."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import models
from netadapt_onnx.api.adapt import adapt, dry_run
from netadapt_onnx.common.options import declared_options
from netadapt_onnx.search.idle_options import _READ, idle_options
from netadapt_onnx.search.options import AdaptOptions
from netadapt_onnx.search.presets import NAMES
from sample_data import brightest_channel


def options(budget: str = "macs=0.5x", **chosen: Any) -> AdaptOptions:
    return AdaptOptions(budget=(budget,), **chosen)


@pytest.mark.parametrize(
    ("chosen", "note"),
    [
        (
            {"strategy": "knapsack", "start": "original"},
            "--start original has no effect: it is for --strategy netadapt",
        ),
        (
            {"preset": "fast", "start_share": 0.5},
            "--start-share 0.5 has no effect: it is for --strategy netadapt --start",
        ),
        (
            {"start": "original", "start_share": 0.5},
            "--start-share 0.5 has no effect: it is for --strategy netadapt --start",
        ),
        ({"start": "original", "portfolio": "off", "draws": 4}, "--draws 4 has no effect: no error curves"),
        ({"table_models": 32}, "--table-models 32 has no effect: it is for a latency budget without --table"),
        (
            {"table_models": 32, "budget": "latency=0.5x", "table": "table.jsonl"},
            "--table-models 32 has no effect: it is for a latency budget without --table",
        ),
        ({"final_effort": 2.0, "final_epochs": 3}, "--final-effort 2.0 has no effect: it is for --final-epochs auto"),
        ({"augment": True, "final_epochs": 0}, "--augment has no effect: there is no final training"),
        ({"short_term_lr": 0.1, "portfolio": "solved"}, "--short-term-lr 0.1 has no effect: nothing is trained"),
    ],
)
def test_an_option_that_changes_nothing_is_named(chosen: dict[str, Any], note: str) -> None:
    (text,) = idle_options(options(**chosen))
    assert text.startswith(note)


@pytest.mark.parametrize(
    "chosen",
    [
        {},
        {"start": "original"},
        {"start_share": 0.5},
        {"start": "original", "draws": 4},
        {"strategy": "curves", "portfolio": "off", "draws": 4},
        {"budget": "latency=0.5x", "table_models": 32},
        {"final_effort": 2.0},
        {"augment": True},
        {"augment": True, "final_epochs": 3},
        {"short_term_lr": 0.1},
        {"short_term_lr": 0.1, "rank": "finetune", "portfolio": "off"},
    ],
)
def test_an_option_that_is_read_is_not_named(chosen: dict[str, Any]) -> None:
    assert idle_options(options(**chosen)) == ()


@pytest.mark.parametrize("preset", NAMES)
@pytest.mark.parametrize("budget", ["macs=0.5x", "latency=0.5x"])
def test_what_a_preset_sets_is_not_named(preset: Any, budget: str) -> None:
    assert idle_options(options(budget, preset=preset)) == ()


def test_every_option_that_is_judged_exists() -> None:
    assert set(_READ) <= set(declared_options(AdaptOptions))


def test_runs_and_dry_runs_note_it(tmp_path: Path) -> None:
    model, data = tmp_path / "model.onnx", tmp_path / "data.npz"
    model.write_bytes(models.plain((8, 12, 16), size=8, classes=3).SerializeToString())
    brightest_channel(data, labelled=False)
    chosen: dict[str, Any] = {"strategy": "knapsack", "start": "original", "step": 1, "final_epochs": 0}
    task = (model, data, "macs=0.8x")
    assert "--start original" in dry_run(*task, **chosen).notes[0]
    assert "--start original" in adapt(*task, tmp_path / "run", **chosen).notes[0]
