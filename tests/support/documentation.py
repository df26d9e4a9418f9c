"""The project's Markdown: its pages, their fenced blocks with what is said of running them, their headings and links.

A block is run by a test, unless the line before its fence says something else:

- `<!-- not run: why -->`: no test runs it; `<!-- slow: why -->`: only `make test-all` does.
- `<!-- file: NAME -->`: it is the content of a file, which the page's reader saves.
- `<!-- output -->`: it is what the block before it prints, written by `docs/outputs.py`; `<!-- output: 12 lines -->`:
  its beginning.

Other blocks of `text` are not meant to be typed.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]
OUTPUT = "text"
_FENCE = re.compile(r"^\s*(`{3,})(\w*)\s*$")
_MARK = re.compile(r"^\s*<!-- (?:(not run|slow|file): (.+)|(output)(?:: (\d+) lines)?) -->$")
_CUT = "..."


@dataclass(frozen=True)
class Block:
    """A fenced block; `mark` is what stands before it ("" for nothing), and `reason` what the mark says."""

    page: Path
    line: int
    language: str
    text: str
    mark: str = ""
    reason: str = ""

    @property
    def place(self) -> str:
        return f"{self.page.relative_to(REPOSITORY)}:{self.line}"


def pages() -> list[Path]:
    """Everything that users read."""
    own = [
        REPOSITORY / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md", "SECURITY.md", "tests/README.md")
    ]
    return [
        *(page for page in own if page.exists()),
        *sorted((REPOSITORY / "docs").rglob("*.md")),
        *sorted((REPOSITORY / "examples").rglob("*.md")),
    ]


def blocks(page: Path) -> list[Block]:
    """The fenced blocks of a page, in order."""
    closed: list[Block] = []
    opened: tuple[int, str, str, list[str], tuple[str, str]] | None = None
    before = ""
    for number, line in enumerate(page.read_text(encoding="utf-8").splitlines(), 1):
        fence = _FENCE.match(line)
        if opened is None:
            if fence is not None:
                mark = _MARK.match(before)
                opened = (number, fence[1], fence[2], [], _marked(mark))
        elif fence is not None and fence[1] == opened[1] and not fence[2]:
            closed.append(Block(page, opened[0], opened[2], "\n".join(opened[3]) + "\n", *opened[4]))
            opened = None
        else:
            opened[3].append(line)
        before = line
    assert opened is None, f"{page}: a fence is not closed"
    return closed


def _marked(mark: re.Match[str] | None) -> tuple[str, str]:
    return (mark[1] or mark[3], mark[2] or mark[4] or "") if mark else ("", "")


def outputs(page: Path) -> list[tuple[Block, Block]]:
    """The blocks of a page whose output is shown, each with the block that shows it."""
    every = blocks(page)
    pairs = [(every[i - 1], block) for i, block in enumerate(every) if block.mark == "output"]
    assert all(block.language == OUTPUT for _, block in pairs), f"{page}: output stands in a block of `{OUTPUT}`"
    return pairs


def shown(block: Block, printed: str) -> str:
    """What a block shows of an output: all, or so many lines from its beginning."""
    lines = [line.rstrip() for line in printed.strip("\n").splitlines()]
    if block.reason and len(lines) > int(block.reason):
        lines = [*lines[: int(block.reason)], _CUT]
    return "\n".join(lines) + "\n"


def commands(block: Block) -> list[str]:
    """The commands of a `sh` block: continued lines joined, comments left out."""
    lines = re.sub(r"\s*\\\n\s*", " ", block.text).splitlines()
    return [line.strip() for line in lines if line.strip() and not line.lstrip().startswith("#")]


def prose(page: Path) -> str:
    """A page without its fenced blocks and code spans."""
    text = re.sub(
        r"^\s*(`{3,})\w*\n.*?^\s*\1\s*$", "", page.read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE
    )
    return re.sub(r"`[^`\n]*`", "", text)


def links(page: Path) -> list[str]:
    """Where a page's links and pictures lead."""
    text = prose(page)
    return re.findall(r"\]\(([^)\s]+)\)", text) + re.findall(r'(?:src|href|srcset)="([^"]+)"', text)


def anchors(page: Path) -> set[str]:
    """The fragments that GitHub gives a page's headings."""
    names: set[str] = set()
    text = re.sub(
        r"^\s*(`{3,})\w*\n.*?^\s*\1\s*$", "", page.read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE
    )
    for heading in re.findall(r"^#{1,6} +(.+?)\s*$", text, re.MULTILINE):
        words = re.sub(r"[^\w\- ]", "", re.sub(r"\[([^]]*)\]\([^)]*\)", r"\1", heading).lower()).replace(" ", "-")
        name, again = words, 0
        while name in names:
            again += 1
            name = f"{words}-{again}"
        names.add(name)
    return names
