"""JSON-lines files that a run only ever appends to, each line on the disk before the next is written."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import Generic, TypeVar

import msgspec

from netadapt_onnx.common.json_output import UNREADABLE, json_bytes
from netadapt_onnx.errors import NetadaptError

T = TypeVar("T")

AGAIN = "put it back, or start again in another directory"


class Lines(Generic[T]):
    """A JSON-lines file of one type that only grows.

    Attributes:
        items: What the lines hold, in order.
        digests: The SHA-256 of each line.
        was_torn: Whether the last line was incomplete when the file was opened.
    """

    def __init__(self, path: Path, kind: type[T], *, only_read: bool = False) -> None:
        """Read the lines of a file.

        A last line that a kill has torn is cut off, unless the file is `only_read`: its writer may still be at it.

        Args:
            path: The file, which may not exist yet.
            kind: The type of a line.
            only_read: Whether to leave the file as it is.

        Raises:
            NetadaptError: A line that is not the last is corrupt.
        """
        self._path = path
        self.items: list[T] = []
        self.digests: list[str] = []
        self.was_torn = False
        if not path.exists():
            return
        data = path.read_bytes()
        complete_bytes = 0
        for number, line in enumerate(data.splitlines(keepends=True), 1):
            try:
                if not line.endswith(b"\n"):
                    break
                self.items.append(msgspec.json.decode(line, type=kind))
            except UNREADABLE as error:
                if complete_bytes + len(line) < len(data):
                    raise NetadaptError(
                        f"{path}, line {number}: {' '.join(str(error).split())}", hint=AGAIN, code="corrupt-run"
                    ) from error
                break
            complete_bytes += len(line)
            self.digests.append(hashlib.sha256(line).hexdigest())
        self.was_torn = complete_bytes < len(data)
        if self.was_torn and not only_read:  # torn by a kill: what it recorded is done again
            with path.open("r+b") as file:
                file.truncate(complete_bytes)

    def append(self, item: T) -> None:
        """Add a line; when this returns it is on the disk."""
        line = json_bytes(item) + b"\n"
        with self._path.open("ab") as file:
            file.write(line)
            file.flush()
            os.fsync(file.fileno())
        self.items.append(item)
        self.digests.append(hashlib.sha256(line).hexdigest())
