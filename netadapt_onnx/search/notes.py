"""What users should know of a run: each note is logged once and becomes part of the result."""

from __future__ import annotations

from collections.abc import Callable


class Notes:
    """The notes of a run, in the order in which they came up."""

    def __init__(self, log: Callable[[str], None]) -> None:
        """Write every note to `log`, once."""
        self._log = log
        self._texts: list[str] = []

    @property
    def texts(self) -> tuple[str, ...]:
        """The notes so far."""
        return tuple(self._texts)

    def add(self, text: str) -> None:
        """Add a note, unless it is one already."""
        if text not in self._texts:
            self._texts.append(text)
            self._log(text)
