"""Write the tables of results into README.md and the pages of docs/, from benchmarks/results/*.json.

python docs/benchmarks.py    # make docs; a test fails where the pages and the results differ

A table stands between `<!-- results: NAME -->` and `<!-- end of results -->`, a short one of README.md between
`<!-- summary: NAME -->` and `<!-- end of summary -->`; what is around them is written by hand.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

FOLDER = Path(__file__).resolve().parent
sys.path.insert(0, str(FOLDER.parent / "benchmarks"))

from result_files import FOLDER as FOLDER_OF_RESULTS  # noqa: E402
from result_tables import block  # noqa: E402
from summary_tables import TABLES as SUMMARIES  # noqa: E402

README = FOLDER.parent / "README.md"
_BLOCK = re.compile(r"<!-- results: (\w+) -->\n.*?<!-- end of results -->", re.DOTALL)
_SUMMARY = re.compile(r"<!-- summary: (\w+) -->\n.*?<!-- end of summary -->", re.DOTALL)


def pages() -> dict[Path, set[str]]:
    """The pages with tables of results, and the names of these."""
    names_by_page = {
        page: set(_BLOCK.findall(page.read_text(encoding="utf-8"))) for page in sorted(FOLDER.glob("*.md"))
    }
    return {README: set(), **{page: names for page, names in names_by_page.items() if names}}


def files() -> set[str]:
    """The names of all files of results."""
    return {file.stem for file in FOLDER_OF_RESULTS.glob("*.json")}


def page_text(page: Path) -> str:
    """The page as it should be."""
    text = page.read_text(encoding="utf-8")
    text = _SUMMARY.sub(
        lambda match: f"<!-- summary: {match[1]} -->\n{SUMMARIES[match[1]]()}\n<!-- end of summary -->", text
    )
    return _BLOCK.sub(lambda match: f"<!-- results: {match[1]} -->\n{block(match[1])}\n<!-- end of results -->", text)


if __name__ == "__main__":
    assert set().union(*pages().values()) >= files(), "every file of results has a place in a page"
    for page in pages():
        page.write_text(page_text(page), encoding="utf-8")
