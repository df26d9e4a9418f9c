"""Lines broken at words for a terminal, and never within a path, a command or what is quoted; cells of its tables."""

from __future__ import annotations

import re
import shutil
import textwrap

# What stays in one piece: what is quoted, and commands, which end where their sentence goes on.
_PIECES = re.compile(
    r"`[^`]*`" r"|(?<!\w)'[^']*'(?!\w)" r'|"[^"]*"' r"|(?<!\S)(?:pip install|netadapt-onnx|git) (?:'[^']*'|[^,;()'])*"
)
# Stands for a space that is no place to break a line at.
_TIED = "\x00"
INDENT = "  "
# Where a cell of a table may be broken: after a space, and between the parts of a name such as a/b.c or BatchNorm.
_PARTS = re.compile(r"[A-Z]*[^\sA-Z/._]*[\s/._]*")


def wrapped(line: str, width: int) -> str:
    """A line as several of at most `width` characters, unless one piece alone is longer; all but the first indented."""
    if len(line) < width:
        return line
    tied = _PIECES.sub(lambda piece: piece[0].rstrip(" ").replace(" ", _TIED) + " " * piece[0].endswith(" "), line)
    lines = textwrap.wrap(
        tied, width - 1, subsequent_indent=INDENT, break_long_words=False, break_on_hyphens=False, expand_tabs=False
    )
    return "\n".join(lines).replace(_TIED, " ")


def wrapped_cell(text: str, width: int) -> str:
    """A cell of a table as lines of at most `width` characters, broken between words and the parts of names.

    >>> wrapped_cell("layer1.0.conv1", 10)
    'layer1.0.\\nconv1'
    """
    lines = [""]
    for line in text.split("\n"):
        for part in _PARTS.findall(line):
            if lines[-1] and len((lines[-1] + part).rstrip()) > width:
                lines.append("")
            lines[-1] += part
            while len(lines[-1].rstrip()) > width:
                lines[-1:] = [lines[-1][:width], lines[-1][width:]]
        lines.append("")
    return "\n".join(line.rstrip() for line in lines[:-1])


def terminal_width() -> int:
    """The columns of the terminal."""
    return shutil.get_terminal_size().columns


def wrapped_sentences(text: str, width: int) -> str:
    """A text whose sentences are wrapped; lines of tables and commands stay as they are."""
    return "\n".join(
        line if "  " in line or line.startswith("next: ") else wrapped(line, width) for line in text.split("\n")
    )
