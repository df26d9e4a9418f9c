"""A run's accepted iterations: `history.jsonl`, whose lines the journal seals."""

from __future__ import annotations

from pathlib import Path
from typing import TypeVar

from netadapt_onnx.search.run_directory.file_names import HISTORY_FILE
from netadapt_onnx.search.run_directory.journal import Journal, read_journal
from netadapt_onnx.search.run_directory.lines import Lines

T = TypeVar("T")


class History(Lines[T]):
    """A run's accepted iterations, each sealed in the journal once it is written."""

    def __init__(self, folder: Path, kind: type[T], journal: Journal, needed: int = 0) -> None:
        """Read the history of the run in `folder`.

        Args:
            folder: The run directory.
            kind: The type of an iteration.
            journal: The run's journal, which knows the digest of every line.
            needed: The number of iterations that the run's other files are of.

        Raises:
            NetadaptError: The history is not as this run wrote it.
        """
        super().__init__(folder / HISTORY_FILE, kind)
        self._journal = journal
        journal.check_lines(self.digests, torn=self.was_torn, needed=needed)
        for number, digest in enumerate(self.digests, 1):
            journal.seal_line(number, digest)

    def append(self, item: T) -> None:
        """Add an iteration; when this returns it is on the disk."""
        super().append(item)
        self._journal.seal_line(len(self.digests), self.digests[-1])


def read_history(folder: Path, kind: type[T]) -> list[T]:
    """A run's accepted iterations. Raises NetadaptError if they are not those that it wrote."""
    lines = Lines(folder / HISTORY_FILE, kind, only_read=True)  # before the journal, which then knows all of them
    read_journal(folder).check_lines(lines.digests, torn=lines.was_torn)
    return lines.items
