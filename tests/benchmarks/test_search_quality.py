"""What the benchmarks of the search compute around the search: where bisection ends, what their tables say."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "benchmarks"))

import search_quality
import search_rivals
import search_speed


@pytest.mark.parametrize(
    ("within", "first"),
    [(lambda n: n >= 7, 7), (lambda n: False, 9), (lambda n: True, 0), (lambda n: n >= 7 or n == 5, 5)],
)
def test_the_largest_model_within_a_budget_is_found(within, first) -> None:  # type: ignore[no-untyped-def]
    assert search_rivals.first_within(10, within) == first


def cell(method: str, seed: int, test: float) -> dict[str, object]:
    case = {"method": method, "budget": "latency=0.5x", "seed": seed, "epochs": 6, "augment": False}
    numbers = {
        "original": 0.88,
        "before_training": 0.7,
        "latency": 0.49,
        "macs": 0.4,
        "search_s": 90,
        "training_s": 200,
    }
    return {"case": case, "test": test, **numbers}


def test_a_table_has_means_and_spreads_over_seeds_and_says_what_failed() -> None:
    failed = {"case": cell("torch-pruning", 0, 0)["case"], "failure": "no such package"}
    table = search_quality.markdown([cell("uniform", 0, 0.86), cell("uniform", 1, 0.87), failed])
    (row,) = [line for line in table.splitlines() if "uniform" in line]
    assert [text.strip() for text in row.strip("|").split("|")] == [
        "uniform", "86.50", "1.00", "1.50", "70.00", "0.490x", "0.400x", "90", "200", "2",
    ]  # fmt: skip
    assert "no such package" in table


def test_iterations_are_timed_from_one_accepted_model_to_the_next(monkeypatch: pytest.MonkeyPatch) -> None:
    times = iter([5.0, 7.0, 10.0, 14.0])
    monkeypatch.setattr(search_speed.time, "monotonic", lambda: next(times))
    clock = search_speed.Clock(began=0.0)
    for iteration in (1, 2):
        clock.progress(1, 3, f"iteration {iteration}, proposals, so far good")
        clock.progress(3, 3, f"iteration {iteration}, proposals, so far good")
        clock.log(f"iteration {iteration}: conv1 16 -> 8, macs 0.9x")
    assert clock.medians() == {"proposals": 3, "ranking_s": 3.0, "accepted_s": 7.0, "iterations": 1}
