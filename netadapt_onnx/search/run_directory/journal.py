"""The journal of a run: what was measured and chosen, and the SHA-256 of every file that is read back later.

Each of its lines carries a digest of itself and all lines before it, so that whatever a resumed run reads back is
complete and in the order in which this run wrote it. The history, one line an accepted iteration, is sealed by it. Both
are JSON-lines files that only grow, each line on the disk before the next is written.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Generic, TypeVar

import msgspec

from netadapt_onnx.common.files import digest
from netadapt_onnx.common.json_output import UNREADABLE, json_bytes
from netadapt_onnx.errors import NetadaptError
from netadapt_onnx.graph.model import data_file
from netadapt_onnx.search.run_directory.file_names import (
    HISTORY_FILE,
    IDENTITY_FILE,
    ITERATIONS,
    JOURNAL_FILE,
    RESULT_FILE,
)

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


# Where the journal keeps digests: of files by their path in the run's directory, of the history's lines by number.
_FILE, _LINE = "sha256/", "sha256-of-line/"


class Entry(msgspec.Struct, frozen=True, omit_defaults=True):
    """A line of the journal: the value that was measured or chosen for `key`.

    `chain` is a digest of this line and all before it; it is empty in runs of versions that had none.
    """

    key: str
    value: Any
    chain: str = ""


class Journal:
    """The journal of a run; `values` has the last value of every key."""

    def __init__(self, folder: Path, root: str | None, *, only_read: bool = False) -> None:
        """Read the journal of the run in `folder`.

        Args:
            folder: The run directory.
            root: The digest that the chain of lines begins with; None for a run of a version without digests.
            only_read: Whether to leave the file as it is.

        Raises:
            NetadaptError: A line was changed, or belongs to another run.
        """
        self._folder = folder
        self._root = root
        self._lines = Lines(folder / JOURNAL_FILE, Entry, only_read=only_read)
        self._last = root or ""
        for number, entry in enumerate(self._lines.items, 1):
            if root is not None and entry.chain != self._chained(entry.key, entry.value):
                raise NetadaptError(
                    f"{folder / JOURNAL_FILE}, line {number}: it is not what this run wrote there",
                    hint=AGAIN,
                    code="corrupt-run",
                )
            self._last = entry.chain
        self.values = {entry.key: entry.value for entry in self._lines.items}

    @property
    def entries(self) -> list[Entry]:
        """The lines, in the order in which they were written."""
        return self._lines.items

    def append(self, key: str, value: Any) -> Any:
        """Add a line; returns the value as JSON gives it back."""
        value = msgspec.json.decode(json_bytes(value))
        chain = "" if self._root is None else self._chained(key, value)
        self._lines.append(Entry(key, value, chain))
        self._last = chain
        self.values[key] = value
        return value

    def seal(self, path: Path) -> None:
        """Record the digest of a file that was just written, if it exists."""
        if path.exists():
            self._seal(f"{_FILE}{self._name(path)}", _content_digest(path))

    def is_sealed(self, path: Path, hint: str = "put it back, or remove it: --resume makes it again") -> bool:
        """Whether a file exists and is as it was sealed; False for one that a killed process had not sealed yet.

        Raises:
            NetadaptError: The file holds anything else; `hint` says what to do then.
        """
        if self._root is None:
            return path.exists()
        expected = self.values.get(f"{_FILE}{self._name(path)}")
        if expected is None or not path.exists():
            return False
        if _content_digest(path) != expected:
            raise self._wrong(f"{path}: it is not what this run wrote there", hint)
        return True

    def digest_of(self, path: Path) -> str | None:
        """The digest that a file was last sealed with, whether it still exists or not; None if it never was."""
        digest: str | None = self.values.get(f"{_FILE}{self._name(path)}")
        return digest

    def require_sealed(self, path: Path) -> None:
        """Raise NetadaptError unless a file exists and is as it was sealed."""
        if not self.is_sealed(path, AGAIN):
            raise self._wrong(f"{path}: {'it is not what this run wrote there' if path.exists() else 'it is missing'}")

    def require_unchanged(self, path: Path) -> None:
        """Raise NetadaptError if a file that was sealed is missing or has changed."""
        if f"{_FILE}{self._name(path)}" in self.values:
            self.require_sealed(path)

    def seal_line(self, number: int, digest: str) -> None:
        """Record the digest of a line of the history."""
        self._seal(f"{_LINE}{number}", digest)

    def check_lines(self, digests: list[str], *, torn: bool = False, needed: int = 0) -> None:
        """Raise NetadaptError unless these are the digests of the history's lines.

        A kill may have left the last line unsealed; by then the files of its iteration were sealed. The last of more
        lines than are `needed` may also have been `torn`, as long as there is no result: made again it is the same.
        """
        if self._root is None:
            return
        path = self._folder / HISTORY_FILE
        sealed = sum(key.startswith(_LINE) for key in self.values)
        files_of_next = f"{_FILE}{ITERATIONS}/{sealed + 1:03d}/"
        most = sealed + any(key.startswith(files_of_next) for key in self.values)
        finished = f"{_FILE}{RESULT_FILE}" in self.values
        least = sealed - 1 if torn and sealed > needed and not finished else sealed
        if not least <= len(digests) <= most:
            raise self._wrong(
                f"{path} has {len(digests)} iterations, {JOURNAL_FILE} {sealed}: not as this run left them"
            )
        for number, line_digest in enumerate(digests[:sealed], 1):
            if self.values.get(f"{_LINE}{number}") != line_digest:
                raise self._wrong(f"{path}, line {number}: it is not what this run wrote there")

    def _seal(self, key: str, value: str) -> None:
        if self._root is not None and self.values.get(key) != value:
            self.append(key, value)

    def _chained(self, key: str, value: Any) -> str:
        return hashlib.sha256(msgspec.json.encode([self._last, key, value])).hexdigest()[:16]

    def _name(self, path: Path) -> str:
        return path.relative_to(self._folder).as_posix()

    def _wrong(self, message: str, hint: str = AGAIN) -> NetadaptError:
        return NetadaptError(message, hint=hint, code="corrupt-run")


def chain_root(recorded: Mapping[str, Any]) -> str | None:
    """Where the chain of a run's journal begins, by its `run.json`; None for runs that have none."""
    if not recorded.get("sealed"):
        return None
    return hashlib.sha256(msgspec.json.encode(recorded["identity"])).hexdigest()


def _content_digest(path: Path) -> str:
    """The digest of a file, and of the weights beside it where they are too large for one file."""
    weights = data_file(path)
    return f"{digest(path)}{digest(weights)}" if weights.exists() else digest(path)


def read_journal(folder: Path) -> Journal:
    """The journal of a run that may be at work. Raises NetadaptError if the run's files are damaged."""
    return Journal(folder, chain_root(read_identity(folder / IDENTITY_FILE)), only_read=True)


def read_identity(file: Path) -> dict[str, Any]:
    """What a run's `run.json` says. Raises NetadaptError if it is none."""
    try:
        recorded = msgspec.json.decode(file.read_bytes(), type=dict[str, Any])
        if isinstance(recorded["identity"], dict) and isinstance(recorded["growing"], dict):
            return recorded
    except (OSError, KeyError, *UNREADABLE) as error:
        raise NetadaptError(f"{file} is not readable as a run", hint=AGAIN, code="corrupt-run") from error
    raise NetadaptError(f"{file} is not readable as a run", hint=AGAIN, code="corrupt-run")


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
        for number, line_digest in enumerate(self.digests, 1):
            journal.seal_line(number, line_digest)

    def append(self, item: T) -> None:
        """Add an iteration; when this returns it is on the disk."""
        super().append(item)
        self._journal.seal_line(len(self.digests), self.digests[-1])


def read_history(folder: Path, kind: type[T]) -> list[T]:
    """A run's accepted iterations. Raises NetadaptError if they are not those that it wrote."""
    lines = Lines(folder / HISTORY_FILE, kind, only_read=True)  # before the journal, which then knows all of them
    read_journal(folder).check_lines(lines.digests, torn=lines.was_torn)
    return lines.items
