"""The one exception that users see."""

from __future__ import annotations


class NetadaptError(Exception):
    """Something the user can act on: what went wrong, where, and what to do about it.

    `code` is a short machine-readable word for `--json`; `exit_code` is 2 ("could not judge") unless said otherwise.
    """

    def __init__(self, message: str, *, hint: str = "", node: str = "", code: str = "invalid") -> None:
        super().__init__(message)
        self.message = f"{message} (node '{node}')" if node else message
        self.hint = hint
        self.node = node
        self.code = code

    def __str__(self) -> str:
        return f"{self.message}; {self.hint}" if self.hint else self.message
