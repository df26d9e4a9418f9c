"""docs/architecture.md is true: its pictures come from the contracts and the tree, and every path in it exists."""

from __future__ import annotations

import re
import runpy
from pathlib import Path

import pytest

from documentation import REPOSITORY, blocks, pages

PACKAGE = REPOSITORY / "netadapt_onnx"
PICTURES = REPOSITORY / "docs" / "pictures"
SCRIPT = runpy.run_path(str(PICTURES / "architecture.py"))
PAGE = (REPOSITORY / "docs" / "architecture.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("name", SCRIPT["PICTURES"])
def test_the_pictures_are_those_of_the_contracts(name: str) -> None:
    committed = (PICTURES / name).read_text(encoding="utf-8")
    assert committed == SCRIPT["PICTURES"][name](), "run make docs"


def test_every_module_at_the_top_is_in_the_picture_of_the_layers() -> None:
    names = {path.stem for path in PACKAGE.glob("*.py")} | {path.parent.name for path in PACKAGE.glob("*/__init__.py")}
    assert {name for name in names if not name.startswith("_")} <= {*SCRIPT["SUBJECTS"]}


@pytest.mark.parametrize("steps", ["PRUNE", "ITERATION"])
def test_the_modules_of_every_step_exist(steps: str) -> None:
    for step, places in SCRIPT[steps]:
        for place in places.split(", "):
            assert (PACKAGE / place).exists(), f"{step}: {place}"


def test_the_table_answers_with_files_that_exist() -> None:
    rows = re.findall(r"^\| (.+\?|.+ \(.+\)\?) \| (`.+`) \|$", PAGE, re.MULTILINE)
    assert len(rows) >= 20
    for question, answer in rows:
        for place in re.findall(r"`([^`]+)`", answer):
            assert (PACKAGE / place).exists(), f"{question} {place}"


def test_every_path_of_the_page_exists() -> None:
    for path in re.findall(r"`([a-z_]+/[\w/.]+)`", PAGE):
        place = REPOSITORY / path if path.startswith("tests/") else PACKAGE / path
        assert place.exists(), path


@pytest.mark.parametrize("page", pages(), ids=lambda page: page.name)
def test_python_files_that_a_page_names_exist(page: Path) -> None:
    if page.name in ("CHANGELOG.md", "other-tools.md"):  # which say what was, and what others have
        return
    of_readers = {"net.py", *(block.reason for block in blocks(page) if block.mark == "file")}
    folders = ("netadapt_onnx", "tests", "docs", "benchmarks", "examples")
    files = [str(file) for folder in folders for file in (REPOSITORY / folder).rglob("*.py")]
    for name in re.findall(r"`([\w./-]+\.py)(?: [^`]*)?`", page.read_text(encoding="utf-8")):
        assert name in of_readers or any(file.endswith(f"/{name}") for file in files), name
