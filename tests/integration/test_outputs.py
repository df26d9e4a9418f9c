"""What pages show of commands is compared by words and layout, and written without touching the rest of a page."""

from __future__ import annotations

import runpy
from pathlib import Path

import pytest

import documentation
from documentation import REPOSITORY, blocks, outputs, shown
from page_runs import form

WRITER = runpy.run_path(str(REPOSITORY / "docs" / "outputs.py"))
PAGE = """# A page
```sh
netadapt-onnx env
```
<!-- output: 2 lines -->
```text
old 1
```
After it.
"""


@pytest.fixture
def page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(documentation, "REPOSITORY", tmp_path)
    (tmp_path / "page.md").write_text(PAGE, encoding="utf-8")
    return tmp_path / "page.md"


def test_numbers_units_and_widths_of_columns_may_differ() -> None:
    ours = "latency   0.45 ms  (0.44 to 0.46)\n-------  ----\nsize      1.2 MB"
    theirs = "latency  12 us  (11.5 to 13)\n--------------  ------\nsize     980 kB"
    assert form(ours) == form(theirs)


@pytest.mark.parametrize("other", ["latency 0.45 ms met", "size 0.45 ms", "latency: 0.45 ms", ""])
def test_words_and_signs_may_not(other: str) -> None:
    assert form("latency 0.45 ms") != form(other)


def test_which_iterations_a_search_took_is_a_result() -> None:
    head, tail = "iteration  group  macs\n---------  -----  ----", "* on held-out samples\n\nmet"
    assert form(f"{head}\n1  conv1  3 k\n{tail}") == form(f"{head}\n1  conv2  4 k\n2  fc  2 k\n{tail}")
    assert form(f"{head}\n1  conv1  3 k\n{tail}") != form(f"{head}\n1  conv1  3 k\n{tail} not")


def test_only_the_block_of_an_output_is_written(page: Path) -> None:
    (block, output) = outputs(page)[0]
    text = WRITER["page_text"](page, {block: "new 1\nnew 2\nnew 3\n"})
    assert text == PAGE.replace("old 1\n", "new 1\nnew 2\n...\n")
    page.write_text(text, encoding="utf-8")
    again = outputs(page)[0]
    assert WRITER["page_text"](page, {again[0]: "new 5\nnew 6\nnew 7\n"}) == text  # numbers alone are no reason
    assert shown(output, "one\n") == "one\n" and [b.mark for b in blocks(page)] == ["", "output"]
