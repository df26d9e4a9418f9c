"""What a run writes down as it goes, so that whatever is read back later is what this run wrote, whole and in order.

The journal has what was measured and chosen, and the SHA-256 of every file that is read back; each of its lines carries
a digest of itself and all before it.
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

T = TypeVar("T")

IDENTITY_FILE, JOURNAL_FILE, HISTORY_FILE = "run.json", "journal.jsonl", "history.jsonl"
RESULT_FILE = "result.json"
ITERATIONS = "iterations"
# Where the journal keeps digests: of files by their path in the run's directory, of the history's lines by number.
_FILE, _LINE = "sha256/", "sha256-of-line/"
AGAIN = "put it back, or start again in another directory"


class Lines(Generic[T]):
    """A JSON-lines file of one type that only grows. Raises NetadaptError for a corrupt line that is not the last.

    The last is cut off if a kill has torn it; not if the file is only read, since its writer may still be at it.
    """

    def __init__(self, path: Path, kind: type[T], *, only_read: bool = False) -> None:
        self._path = path
        self.items: list[T] = []
        self.digests: list[str] = []
        self.was_torn = False
        if not path.exists():
            return
        data = path.read_bytes()
        whole = 0
        for number, line in enumerate(data.splitlines(keepends=True), 1):
            try:
                if not line.endswith(b"\n"):
                    break
                self.items.append(msgspec.json.decode(line, type=kind))
            except UNREADABLE as error:
                if whole + len(line) < len(data):
                    raise NetadaptError(
                        f"{path}, line {number}: {' '.join(str(error).split())}", hint=AGAIN, code="corrupt-run"
                    ) from error
                break
            whole += len(line)
            self.digests.append(hashlib.sha256(line).hexdigest())
        self.was_torn = whole < len(data)
        if self.was_torn and not only_read:  # torn by a kill: what it recorded is done again
            with path.open("r+b") as file:
                file.truncate(whole)

    def append(self, item: T) -> None:
        """Add a line; when this returns it is on the disk."""
        line = json_bytes(item) + b"\n"
        with self._path.open("ab") as file:
            file.write(line)
            file.flush()
            os.fsync(file.fileno())
        self.items.append(item)
        self.digests.append(hashlib.sha256(line).hexdigest())


class Entry(msgspec.Struct, frozen=True, omit_defaults=True):
    """A line of the journal: what was measured or chosen, under the name of the moment.

    `chain` is a digest of this line and all before it; empty in runs of versions that had none.
    """

    key: str
    value: Any
    chain: str = ""


class Journal:
    """The journal of the run in `folder`, whose chain begins at `root` (None: a run of a version without digests).

    Raises NetadaptError if a line was changed, or belongs to another run.
    """

    def __init__(self, folder: Path, root: str | None, *, only_read: bool = False) -> None:
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
        """Record what a file holds that was just written, if it was."""
        if path.exists():
            self._seal(f"{_FILE}{self._name(path)}", _content_digest(path))

    def is_sealed(self, path: Path, hint: str = "put it back, or remove it: --resume makes it again") -> bool:
        """Whether a file is there and what was sealed. False for one that a killed process had not sealed yet.

        Raises NetadaptError if it holds anything else; `hint` says what to do then.
        """
        if self._root is None:
            return path.exists()
        expected = self.values.get(f"{_FILE}{self._name(path)}")
        if expected is None or not path.exists():
            return False
        if _content_digest(path) != expected:
            raise self._wrong(f"{path}: it is not what this run wrote there", hint)
        return True

    def require_sealed(self, path: Path) -> None:
        """Raise NetadaptError unless a file is there and what was sealed."""
        if not self.is_sealed(path, AGAIN):
            raise self._wrong(f"{path}: {'it is not what this run wrote there' if path.exists() else 'it is missing'}")

    def require_unchanged(self, path: Path) -> None:
        """Raise NetadaptError if a file that was sealed is gone, or anything else."""
        if f"{_FILE}{self._name(path)}" in self.values:
            self.require_sealed(path)

    def seal_line(self, number: int, digest: str) -> None:
        """Record what a line of the history holds."""
        self._seal(f"{_LINE}{number}", digest)

    def check_lines(self, digests: list[str], *, torn: bool = False, needed: int = 0) -> None:
        """Raise NetadaptError unless these are the history's lines. A kill may have left the last one unsealed.

        By then the files of its iteration were sealed. The last of more than are `needed` may also have been `torn`, as
        long as there is no result: made again it is the same.
        """
        if self._root is None:
            return
        path = self._folder / HISTORY_FILE
        sealed = sum(key.startswith(_LINE) for key in self.values)
        made = f"{_FILE}{ITERATIONS}/{sealed + 1:03d}/"
        most = sealed + any(key.startswith(made) for key in self.values)
        finished = f"{_FILE}{RESULT_FILE}" in self.values
        least = sealed - 1 if torn and sealed > needed and not finished else sealed
        if not least <= len(digests) <= most:
            raise self._wrong(
                f"{path} has {len(digests)} iterations, {JOURNAL_FILE} {sealed}: not as this run left them"
            )
        for number, found in enumerate(digests[:sealed], 1):
            if self.values.get(f"{_LINE}{number}") != found:
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


class History(Lines[T]):
    """A run's accepted iterations, each sealed in the journal once it is written.

    The run's other files are of at least `needed` of them.
    """

    def __init__(self, folder: Path, kind: type[T], journal: Journal, needed: int = 0) -> None:
        super().__init__(folder / HISTORY_FILE, kind)
        self._journal = journal
        journal.check_lines(self.digests, torn=self.was_torn, needed=needed)
        for number, found in enumerate(self.digests, 1):
            journal.seal_line(number, found)

    def append(self, item: T) -> None:
        """Add an iteration; when this returns it is on the disk."""
        super().append(item)
        self._journal.seal_line(len(self.digests), self.digests[-1])


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


def read_history(folder: Path, kind: type[T]) -> list[T]:
    """A run's accepted iterations. Raises NetadaptError if they are not those that it wrote."""
    lines = Lines(folder / HISTORY_FILE, kind, only_read=True)  # before the journal, which then knows all of them
    read_journal(folder).check_lines(lines.digests, torn=lines.was_torn)
    return lines.items


def read_identity(file: Path) -> dict[str, Any]:
    """What a run's `run.json` says. Raises NetadaptError if it is none."""
    try:
        recorded = msgspec.json.decode(file.read_bytes(), type=dict[str, Any])
        if isinstance(recorded["identity"], dict) and isinstance(recorded["growing"], dict):
            return recorded
    except (OSError, KeyError, *UNREADABLE) as error:
        raise NetadaptError(f"{file} is not readable as a run", hint=AGAIN, code="corrupt-run") from error
    raise NetadaptError(f"{file} is not readable as a run", hint=AGAIN, code="corrupt-run")
