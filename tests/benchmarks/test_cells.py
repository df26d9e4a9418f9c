"""Cells of long benchmarks: done once, again where they failed, and written before the next begins."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "benchmarks"))

import cells

CASES = [{"number": number} for number in range(3)]


class Worker:
    """Does cells; stops the benchmark at one of them."""

    def __init__(self, stops_at: int | None = None, fails_at: int | None = None) -> None:
        self.done: list[int] = []
        self.stops_at, self.fails_at = stops_at, fails_at

    def __call__(self, case: cells.Row) -> cells.Row:
        if case["number"] == self.stops_at:
            raise KeyboardInterrupt
        self.done.append(case["number"])
        return {"failure": "?"} if case["number"] == self.fails_at else {"value": 10 * case["number"]}


def test_a_stopped_benchmark_goes_on_where_it_was(tmp_path: Path) -> None:
    results, first, second = tmp_path / "results.jsonl", Worker(stops_at=2), Worker()
    with pytest.raises(KeyboardInterrupt):
        cells.complete(results, CASES, first)
    cells.complete(results, CASES, second)
    assert (first.done, second.done) == ([0, 1], [2])
    assert [row["value"] for row in cells.read(results)] == [0, 10, 20]


def test_a_cell_that_failed_is_done_again_and_replaced(tmp_path: Path) -> None:
    results, again = tmp_path / "results.jsonl", Worker()
    cells.complete(results, CASES, Worker(fails_at=1))
    cells.complete(results, CASES, again)
    assert again.done == [1]
    assert [row for row in cells.read(results) if row["case"] == CASES[1]] == [{"case": CASES[1], "value": 10}]


def test_a_line_that_a_kill_has_torn_is_done_again(tmp_path: Path) -> None:
    results, again = tmp_path / "results.jsonl", Worker()
    cells.complete(results, CASES, Worker())
    results.write_text(results.read_text()[:-5])
    cells.complete(results, CASES, again)
    assert again.done == [2]
    assert [row["value"] for row in cells.read(results)] == [0, 10, 20]


def test_cpu_seconds_include_those_of_children() -> None:
    watch = cells.Stopwatch()
    import subprocess

    burn = "import time\nwhile time.process_time() < 0.2: pass"
    subprocess.run([sys.executable, "-c", burn], check=True)
    assert watch.seconds("search")["search_cpu_s"] >= 0.19
