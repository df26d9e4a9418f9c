"""The tables of docs/ are those of benchmarks/results/, each with its machine and its date."""

from __future__ import annotations

import runpy
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(REPOSITORY / "benchmarks"))

import result_files  # noqa: E402
import result_tables  # noqa: E402

DOCS = runpy.run_path(str(REPOSITORY / "docs" / "benchmarks.py"))
FILES = sorted(file.stem for file in result_files.FOLDER.glob("*.json"))


@pytest.mark.parametrize("page", DOCS["pages"](), ids=lambda page: page.name)
def test_the_tables_of_a_page_are_those_of_the_results(page: Path) -> None:
    assert page.read_text(encoding="utf-8") == DOCS["page_text"](page), "run make docs"


def test_every_file_of_results_has_a_table_and_a_place() -> None:
    assert set(result_tables.TABLES) >= set(FILES)
    assert set(FILES) == set().union(*DOCS["pages"]().values())


def test_the_readme_shows_both_summaries() -> None:
    text = DOCS["README"].read_text(encoding="utf-8")
    assert all(f"<!-- summary: {name} -->" in text for name in DOCS["SUMMARIES"])


@pytest.mark.parametrize("name", FILES)
def test_results_say_when_where_and_by_which_command(name: str) -> None:
    document = result_files.read(name)
    assert set(document) - {"provenance"} == {"benchmark", "options", "date", "machine", "rows"}
    assert (REPOSITORY / document["benchmark"]).exists() and document["rows"]
    assert document["date"].startswith("20") and document["machine"]["processor"]


def test_recorded_results_are_read_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(result_files, "FOLDER", tmp_path)
    monkeypatch.setattr(sys, "argv", ["/somewhere/benchmarks/steps.py", "--max-time", "3", "--record"])
    row = {"target": 0.5, "step": "auto", "macs": 0.4, "table": 0.5, "predicted": 0.5}
    row |= {"measured": 0.51, "ci95": [0.5, 0.52]}
    result_files.record("steps", [row, {**row, "step": "8"}])
    document = result_files.read("steps")
    assert (document["benchmark"], document["options"]) == ("benchmarks/steps.py", "--max-time 3")
    assert document["rows"][0] == row
    assert document["machine"]["device"]["onnxruntime"] == document["machine"]["packages"]["onnxruntime"]
    text = result_tables.block("steps")
    assert "| 0.5x | auto | 0.400x | 0.500x | 0.500x | 0.510x (0.500-0.520) |" in text and "of 8" in text
