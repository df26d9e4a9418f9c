"""What the benchmark of the search's quality computes around the search: its cells, and what its tables say."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "benchmarks"))

import result_tables
import search_quality
import search_rivals


@pytest.mark.parametrize(
    ("within", "first"),
    [(lambda n: n >= 7, 7), (lambda n: False, 9), (lambda n: True, 0), (lambda n: n >= 7 or n == 5, 5)],
)
def test_the_largest_model_within_a_budget_is_found(within, first) -> None:  # type: ignore[no-untyped-def]
    assert search_rivals.first_within(10, within) == first


def cell(method: str, seed: int, test: float, training: str = "same") -> dict[str, object]:
    steps = 800 if training == "same" else 0
    case = search_quality.Case("convnet", method, "latency=0.5x", seed, training, steps)
    numbers = {
        "original": 0.88,
        "before_training": 0.7,
        "latency": 0.49,
        "macs": 0.4,
        "search_s": 95.0,
        "search_cpu_s": 90.0,
        "training_s": 210.0,
        "training_cpu_s": 200.0,
    }
    return {"case": vars(case), "test": test, "metric": "top1", **numbers}


def cells_of(line: str) -> list[str]:
    return [text.strip() for text in line.strip().strip("|").split("|")]


def test_a_table_has_means_and_spreads_over_seeds_and_says_what_failed() -> None:
    failed = {"case": cell("torch-pruning/8", 0, 0)["case"], "failure": "no such package"}
    rows = search_quality.summary([cell("uniform", 0, 0.86), cell("uniform", 1, 0.87), failed])
    table = result_tables.search_quality(rows)
    (row,) = [line for line in table.splitlines() if line.startswith("| uniform")]
    assert cells_of(row) == [
        "uniform", "the same, 800 steps", "86.50", "1.00", "70.00", "0.490x, 0.490x", "0.400x", "90", "200", "2",
    ]  # fmt: skip
    assert "**5-layer ConvNet, latency=0.5x** (test accuracy, 88.00 before)" in table
    assert "no such package" in table


def test_the_same_training_and_a_presets_own_are_rows_of_their_own() -> None:
    rows = search_quality.summary([cell("fast", 0, 0.86), cell("fast", 0, 0.87, "own")])
    assert [(row["training"], row["test"]) for row in rows] == [("same", 0.86), ("own", 0.87)]
    (own,) = [line for line in result_tables.search_quality(rows).splitlines() if line.startswith("| fast | own")]
    assert cells_of(own)[2:5] == ["87.00", "", ""]


def arguments(monkeypatch: pytest.MonkeyPatch, *words: str) -> list[search_quality.Case]:
    monkeypatch.setattr(sys, "argv", ["search_quality.py", *words])
    return list(search_quality.cases(search_quality._arguments()))


def test_every_method_has_the_same_training_and_presets_their_own_besides(monkeypatch: pytest.MonkeyPatch) -> None:
    cases = arguments(monkeypatch)
    same = {case.method for case in cases if case.training == "same"}
    own = {case.method for case in cases if case.training == "own"}
    assert same == set(search_quality.METHODS)
    assert own == set(search_quality.PRESETS)
    steps = {(case.network, case.steps) for case in cases if case.training == "same"}
    assert len(steps) == len({network for network, _ in steps})


def test_large_networks_have_one_seed_and_not_the_smallest_budget(monkeypatch: pytest.MonkeyPatch) -> None:
    cases = arguments(monkeypatch, "--seeds", "3")
    seeds = {name: {case.seed for case in cases if case.network == name} for name in search_quality.DEFAULT_NETWORKS}
    budgets = {name: {case.budget for case in cases if case.network == name} for name in seeds}
    assert seeds["efficientnet-lite0"] == {0} and seeds["convnet"] == {0, 1, 2}
    assert budgets["convnet"] - budgets["efficientnet-lite0"] == {"latency=0.35x"}


def test_torch_pruning_without_a_module_says_why_there_is_none(tmp_path: Path) -> None:
    places = search_quality.Places(tmp_path, tmp_path, None, tmp_path / "pictures.npz")
    case = search_quality.Case("efficientnet-lite0", "torch-pruning/8", "latency=0.5x", 0, "same", 1)
    with pytest.raises(SystemExit, match="no torch module of EfficientNet-Lite0"):
        search_quality.small_model(case, places)
