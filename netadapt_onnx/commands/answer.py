"""What every command gives back to the frame."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class Answer:
    """A command's result: a frozen dataclass for `--json`, its text for people, and whether the answer is yes."""

    result: object
    text: Callable[[], str]
    ok: bool = True
