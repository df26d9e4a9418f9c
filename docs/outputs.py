"""Write what commands print into the pages that show it.

python docs/outputs.py                      # make outputs: blocks are run, recorded results are shown anew
python docs/outputs.py --measure README.md  # first measure what this page marks as slow or not run; takes minutes

A block after `<!-- output -->` is what the block before it prints (tests/support/documentation.py); a test fails where
words or layout of the two differ.
"""

from __future__ import annotations

import os
import sys
import tempfile
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).resolve().parent
sys.path.insert(0, str(FOLDER.parent / "tests" / "support"))

from documentation import Block, blocks, commands, outputs, pages, shown  # noqa: E402
from page_runs import PageSession, form, supply  # noqa: E402
from recorded_results import measure, read_records, replay, write_records  # noqa: E402

# What is run without being asked for; other marks say that it takes long, or needs what is not here.
RUN = ("", "file")


def printed_by(page: Path, measured: bool) -> dict[Block, str]:
    """What the blocks of a page print whose output is shown, in the current folder."""
    session, sources = PageSession(page), {block for block, _ in outputs(page)}
    records: dict[str, Any] = {}
    texts: dict[Block, str] = {}
    for block in blocks(page):
        if block.mark in RUN:
            texts[block] = session.run(block)
        elif block in sources and measured:
            records |= {line: measure(line) for line in commands(block)}
    if measured:
        write_records(page, records)
    records = read_records(page)
    for block in sources - set(texts):
        texts[block] = "".join(replay(line, records[line]) for line in commands(block))
    return texts


def page_text(page: Path, texts: dict[Block, str]) -> str:
    """The page with what its blocks print; what differs in numbers alone stays as it is."""
    lines = page.read_text(encoding="utf-8").splitlines()
    for block, output in reversed(outputs(page)):
        text = shown(output, texts[block])
        if block.mark not in RUN or form(text) != form(output.text):
            lines[output.line : output.line + output.text.count("\n") - (output.text == "\n")] = text.splitlines()
    return "\n".join(lines) + "\n"


def write(page: Path, measured: bool) -> None:
    """Run a page in a folder of its own, and write what it shows."""
    here = Path.cwd()
    with tempfile.TemporaryDirectory(prefix="outputs-") as folder:
        supply(Path(folder))
        os.chdir(folder)
        try:
            page.write_text(page_text(page, printed_by(page, measured)), encoding="utf-8")
        finally:
            os.chdir(here)


if __name__ == "__main__":
    measured = {Path(name).resolve() for name in sys.argv[2:]} if sys.argv[1:2] == ["--measure"] else set()
    named = {Path(name).resolve() for name in sys.argv[1:]} - measured
    for page in pages():
        if outputs(page) and (not sys.argv[1:] or page in measured | named):
            write(page, page in measured)
