"""The commands that a command's output suggests: after `next:`, in the lines below it, and in backticks."""

from __future__ import annotations

import re
import shlex

_SUGGESTION = re.compile(r"^(?:next: |      )netadapt-onnx (.+)$|`netadapt-onnx ([^`]+)`", re.MULTILINE)


def suggestions(text: str) -> list[list[str]]:
    """The words of each suggested command, without the program's name."""
    return [shlex.split(line or quoted) for line, quoted in _SUGGESTION.findall(text)]
