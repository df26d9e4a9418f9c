"""The run directory: locked, identified, journalled; whatever moment a run dies at, it continues from there.

Files appear whole (written aside, flushed, renamed); lists grow by a flushed line, and a torn last line is forgotten.
"""

from __future__ import annotations

import errno
import json
import math
import os
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, Generic, Self, TypeVar

import msgspec

from netadapt_onnx.errors import NetadaptError

T = TypeVar("T")

IDENTITY_FILE = "run.json"
LOCK_FILE = ".lock"
# What a disk says that is full, too small for the file, over its quota, read-only or broken.
_REFUSED = frozenset(
    getattr(errno, name) for name in ("ENOSPC", "EFBIG", "EDQUOT", "EROFS", "EIO") if hasattr(errno, name)
)
JOURNAL_FILE = "journal.jsonl"


def write_atomically(path: Path, data: bytes) -> None:
    """Write a file so that it is there whole or not at all, also after a power cut."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def write_json(path: Path, value: object) -> None:
    """Write a JSON document atomically, for people to read too."""
    write_atomically(path, msgspec.json.format(msgspec.json.encode(value, enc_hook=str), indent=2) + b"\n")


class Lines(Generic[T]):
    """A JSON-lines file of one type that only grows. Raises NetadaptError for a corrupt line that is not the last."""

    def __init__(self, path: Path, kind: type[T]) -> None:
        self._path = path
        self.items: list[T] = []
        if not path.exists():
            return
        data = path.read_bytes()
        whole = 0
        for number, line in enumerate(data.splitlines(keepends=True), 1):
            try:
                if not line.endswith(b"\n"):
                    break
                self.items.append(msgspec.json.decode(line, type=kind))
            except (msgspec.DecodeError, UnicodeDecodeError) as error:
                if whole + len(line) < len(data):
                    raise NetadaptError(f"{path}, line {number}: {error}", code="corrupt-run") from error
                break
            whole += len(line)
        if whole < len(data):  # torn by a kill: what it recorded is done again
            with path.open("r+b") as file:
                file.truncate(whole)

    def append(self, item: T) -> None:
        """Add a line; when this returns it is on the disk."""
        with self._path.open("ab") as file:
            file.write(msgspec.json.encode(item) + b"\n")
            file.flush()
            os.fsync(file.fileno())
        self.items.append(item)


class Entry(msgspec.Struct, frozen=True):
    """A line of the journal: what was measured or chosen, under the name of the moment."""

    key: str
    value: Any


class Run:
    """A run directory that this process holds. Use it in a `with`: leaving frees the lock."""

    def __init__(self, path: Path, lock: BinaryIO, max_time_s: float = math.inf) -> None:
        self.path = path
        self.max_time_s = max_time_s
        self._lock = lock
        self._journal = Lines(path / JOURNAL_FILE, Entry)
        self._known = {entry.key: entry.value for entry in self._journal.items}
        self._started = time.monotonic()
        self._earlier = _seconds_before(path)

    @classmethod
    def open(
        cls,
        path: Path,
        identity: Mapping[str, Any],
        *,
        growing: Mapping[str, int],
        resume: bool,
        about: Mapping[str, Any] | None = None,
        max_time_s: float | None = None,
    ) -> Self:
        """Start a run in `path`, or continue the one that is there if `resume`.

        `identity` is all that decides the result; `growing` holds what a resume may raise; `about` is recorded when
        the run starts and never compared; `max_time_s` is what it may take over all resumes. Raises NetadaptError when
        the directory holds something else or another run (naming what differs), or is in use.
        """
        if path.exists() and not path.is_dir():
            raise NetadaptError(f"{path} is a file", hint="-o names a directory", code="exists")
        contents = {p.name for p in path.iterdir()} if path.exists() else set()
        if IDENTITY_FILE in contents and not resume:
            raise NetadaptError(f"{path} holds a run", hint="continue it with --resume, or name another", code="exists")
        if IDENTITY_FILE not in contents and any(not name.startswith(".") for name in contents):
            raise NetadaptError(f"{path} exists and is not a run", hint="name another directory", code="exists")
        if not path.absolute().parent.is_dir():
            raise NetadaptError(f"{path.parent}: no such folder", code="missing-file")
        path.mkdir(exist_ok=True)
        lock = _locked(path)
        try:
            _identify(path / IDENTITY_FILE, identity, growing, about or {})
            return cls(path, lock, math.inf if max_time_s is None else max_time_s)
        except BaseException:
            lock.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        refused = error if isinstance(error, OSError) and error.errno in _REFUSED else None
        try:
            self.save_seconds()
        except OSError as another:
            refused = refused or another
        finally:
            self._lock.close()
        if refused is not None:
            raise NetadaptError(
                f"{self.path} cannot be written to: {refused.strerror}",
                hint="make room; --resume goes on from here, nothing is lost",
                code="disk",
            ) from refused

    def once(self, key: str, choose: Callable[[], Any]) -> Any:
        """The journalled value of `key`; if there is none yet, `choose()`, journalled before anybody uses it.

        For measurements and whatever depends on time. The value must be JSON; it is returned as JSON gives it back.
        """
        if key not in self._known:
            value = msgspec.json.decode(msgspec.json.encode(choose()))
            self._journal.append(Entry(key, value))
            self._known[key] = value
            self.save_seconds()
        return self._known[key]

    def recall(self, key: str) -> Any:
        """The journalled value of `key`, None if there is none."""
        return self._known.get(key)

    @property
    def entries(self) -> Sequence[Entry]:
        """The journal's lines, in the order in which they were written."""
        return tuple(self._journal.items)

    def lines(self, name: str, kind: type[T]) -> Lines[T]:
        """The list that this run keeps as `name`."""
        return Lines(self.path / name, kind)

    def iteration(self, number: int) -> Path:
        """The directory of an iteration, made if need be."""
        folder = self.path / "iterations" / f"{number:03d}"
        folder.mkdir(parents=True, exist_ok=True)
        return folder

    def seconds(self) -> float:
        """How long this run has worked so far, over all resumes."""
        return self._earlier + time.monotonic() - self._started

    def left_s(self) -> float:
        """How much of the time that it may take is left."""
        return self.max_time_s - self.seconds()

    def save_seconds(self) -> None:
        """Remember `seconds()` for the next resume."""
        write_json(self.path / ".seconds.json", round(self.seconds(), 3))


def _seconds_before(path: Path) -> float:
    try:
        return msgspec.json.decode((path / ".seconds.json").read_bytes(), type=float)
    except (OSError, msgspec.DecodeError):
        return 0.0


def _locked(path: Path) -> BinaryIO:
    """A lock that the operating system frees when this process ends, however it ends."""
    file = (path / LOCK_FILE).open("ab")
    try:
        if sys.platform == "win32":
            import msvcrt

            file.seek(0)
            msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)
        else:
            import fcntl

            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        file.close()
        raise NetadaptError(
            f"{path} is in use by another process", hint="wait for it or end it", code="locked"
        ) from error
    return file


def _identify(file: Path, identity: Mapping[str, Any], growing: Mapping[str, int], about: Mapping[str, Any]) -> None:
    """Record who this run is, or compare with what was recorded."""
    mine = {"identity": json.loads(json.dumps(identity)), "growing": dict(growing), "about": dict(about)}
    if not file.exists():
        write_json(file, mine)
        return
    try:
        recorded = json.loads(file.read_bytes())
        theirs, before = recorded["identity"], recorded["growing"]
    except (ValueError, KeyError, TypeError) as error:
        raise NetadaptError(f"{file} is not readable as a run", code="corrupt-run") from error
    names = [*theirs, *(name for name in mine["identity"] if name not in theirs)]
    different = [name for name in names if theirs.get(name) != mine["identity"].get(name)]
    lowered = [name for name, value in before.items() if name in growing and not _reaches(growing[name], value)]
    if different or lowered:
        pairs = [(name, theirs.get(name), mine["identity"].get(name)) for name in different]
        pairs += [(name, before[name], growing[name]) for name in lowered]
        told = "; ".join(f"{name} is {_short(there)} there, {_short(here)} here" for name, there, here in pairs)
        raise NetadaptError(
            f"{file.parent} belongs to another run: {told}",
            hint="repeat its arguments or name another directory",
            code="other-run",
        )
    if dict(growing) != before:
        write_json(file, recorded | {"growing": dict(growing)})


def _reaches(number: int, recorded: object) -> bool:
    """Whether a number is no less than what a file says, which may be anything."""
    return isinstance(recorded, int) and number >= recorded


def _short(value: object) -> str:
    text = value if isinstance(value, str) else json.dumps(value)
    return text if len(text) <= 60 else f"{text[:24]}..."
