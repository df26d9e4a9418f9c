"""Write the tables of results into the pages of docs/, from benchmarks/results/*.json.

python docs/benchmarks.py    # make docs; a test fails where the pages and the results differ

A table stands between `<!-- results: NAME -->` and `<!-- end of results -->`; what is around it is written by hand.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

FOLDER = Path(__file__).resolve().parent
sys.path.insert(0, str(FOLDER.parent / "benchmarks"))

from result_files import FOLDER as FOLDER_OF_RESULTS  # noqa: E402
from result_tables import block  # noqa: E402

_BLOCK = re.compile(r"<!-- results: (\w+) -->\n.*?<!-- end of results -->", re.DOTALL)


def pages() -> dict[Path, set[str]]:
    """The pages with tables of results, and the names of these."""
    names_by_page = {
        page: set(_BLOCK.findall(page.read_text(encoding="utf-8"))) for page in sorted(FOLDER.glob("*.md"))
    }
    return {page: names for page, names in names_by_page.items() if names}


def files() -> set[str]:
    """The names of all files of results."""
    return {file.stem for file in FOLDER_OF_RESULTS.glob("*.json")}


def page_text(page: Path) -> str:
    """The page as it should be."""
    text = page.read_text(encoding="utf-8")
    return _BLOCK.sub(lambda match: f"<!-- results: {match[1]} -->\n{block(match[1])}\n<!-- end of results -->", text)


if __name__ == "__main__":
    assert set().union(*pages().values()) >= files(), "every file of results has a place in a page"
    for page in pages():
        page.write_text(page_text(page), encoding="utf-8")
