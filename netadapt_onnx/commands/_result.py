"""What every command gives back to the frame."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from netadapt_onnx.errors import NetadaptError


@dataclass(frozen=True)
class CommandResult:
    """A command's result: a frozen dataclass for `--json`, its text for people, and whether the answer is yes.

    `text` is handed the result with every name, text and path in it escaped, and never has to do that itself; nor can
    what it returns act upon a terminal or a CI system, unless it `is_escaped`: a format with escapes and commands of
    its own. `error` is what kept a part of several from being judged: then the exit code is 2, and the rest is shown.
    Each of `warnings` becomes a line on stderr.
    """

    result: object
    text: Callable[[Any], str]
    ok: bool = True
    error: NetadaptError | None = None
    is_escaped: bool = False
    warnings: tuple[str, ...] = ()
