"""What every command gives back to the frame."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from netadapt_onnx.errors import NetadaptError


@dataclass(frozen=True)
class Answer:
    """A command's result: a frozen dataclass for `--json`, its text for people, and whether the answer is yes.

    `error` is what kept a part of several from being judged: then the exit code is 2, and the rest is shown.
    """

    result: object
    text: Callable[[], str]
    ok: bool = True
    error: NetadaptError | None = None
