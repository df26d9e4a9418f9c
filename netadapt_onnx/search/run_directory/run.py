"""The run directory: locked, identified and journalled, so that a run that was killed at any time can be continued.

Files are written to a temporary name, flushed and renamed; lists grow by a flushed line, and an incomplete last line is
dropped when the list is read."""

from __future__ import annotations

import errno
import json
import math
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self, TypeVar

import msgspec

from netadapt_onnx.common.files import remove_leftovers
from netadapt_onnx.common.json_output import UNREADABLE, write_json
from netadapt_onnx.common.missing_files import missing_file
from netadapt_onnx.common.options import different_options, how_to_go_on
from netadapt_onnx.errors import NetadaptError
from netadapt_onnx.search.run_directory.file_names import IDENTITY_FILE, ITERATIONS
from netadapt_onnx.search.run_directory.journal import Entry, History, Journal, chain_root, read_identity

if TYPE_CHECKING:
    from filelock import BaseFileLock

LOCK_FILE = ".lock"


def lock_directory(path: Path) -> BaseFileLock:
    """Hold the lock of a run directory, which the operating system frees when this process ends, however it ends.

    Args:
        path: The run directory, which exists.

    Returns:
        The lock, to be freed with `release()`.

    Raises:
        NetadaptError: Another process holds it.
    """
    from filelock import FileLock, Timeout

    # A file system without locks is an error: a lock that is a mere file would outlive a killed process.
    lock = FileLock(path / LOCK_FILE, thread_local=False, fallback_to_soft=False)
    try:
        lock.acquire(blocking=False)
    except Timeout:
        raise NetadaptError(
            f"{path} is in use by another process", hint="wait for it or end it", code="locked"
        ) from None
    return lock


def is_running(path: Path) -> bool:
    """Whether a process holds the lock of a run directory; it is left as it is."""
    if not (path / LOCK_FILE).exists():
        return False
    try:
        lock_directory(path).release()
    except NetadaptError:
        return True
    except OSError:  # a copy that may only be read
        return False
    return False


T = TypeVar("T")

# The errors of a disk that is full, too small for the file, over its quota, read-only or broken.
_REFUSED = frozenset(
    getattr(errno, name) for name in ("ENOSPC", "EFBIG", "EDQUOT", "EROFS", "EIO") if hasattr(errno, name)
)


class Run:
    """A run directory that this process holds. Use it in a `with`: leaving frees the lock."""

    def __init__(self, path: Path, lock: BaseFileLock, journal: Journal, max_time_s: float = math.inf) -> None:
        self.path = path
        self.max_time_s = max_time_s
        self.journal = journal
        self._lock = lock
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
        respell: Callable[[Mapping[str, Any]], Mapping[str, Any]] = dict,
    ) -> Self:
        """Start a run in a directory, or continue the one that it holds.

        Args:
            path: The run directory; its parent exists.
            identity: All that decides the result: a resume with another identity is refused.
            growing: Numbers that a resume may raise, never lower.
            resume: Whether a run that the directory holds is continued.
            about: What is recorded when the run starts, besides the time, and never compared.
            max_time_s: The seconds that the run may take over all resumes.
            respell: What makes a recorded identity comparable with this one, if it means the same.

        Returns:
            The run, whose lock this process holds until its `with` block ends.

        Raises:
            NetadaptError: The directory holds something else or another run (the message says what differs), or is in
                use by another process.
        """
        if path.exists() and not path.is_dir():
            raise NetadaptError(f"{path} is a file", hint="-o names a directory", code="exists")
        contents = {p.name for p in path.iterdir()} if path.exists() else set()
        if IDENTITY_FILE in contents and not resume:
            raise NetadaptError(f"{path} holds a run", hint="continue it with --resume, or name another", code="exists")
        if IDENTITY_FILE not in contents and any(not name.startswith(".") for name in contents):
            raise NetadaptError(f"{path} exists and is not a run", hint="name another directory", code="exists")
        if not path.absolute().parent.is_dir():
            raise missing_file(path.parent, what="no such folder")
        path.mkdir(exist_ok=True)
        lock = lock_directory(path)
        try:
            remove_leftovers(path, below=True)
            about = {"started": datetime.now(UTC).isoformat(timespec="seconds"), **(about or {})}
            recorded = _identify(path / IDENTITY_FILE, identity, growing, about, respell)
            journal = Journal(path, chain_root(recorded))
            return cls(path, lock, journal, math.inf if max_time_s is None else max_time_s)
        except BaseException:
            lock.release()
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
            self._lock.release()
        if refused is not None:
            raise NetadaptError(
                f"{self.path} cannot be written to: {refused.strerror}",
                hint="make room; --resume goes on from here, nothing is lost",
                code="disk",
            ) from refused

    def once(self, key: str, choose: Callable[[], Any]) -> Any:
        """The journalled value of `key`; if there is none yet, `choose()` is called and journalled before it is used.

        It is for measurements and whatever depends on time.

        Returns:
            The value, which must be JSON, as JSON gives it back.
        """
        if key not in self.journal.values:
            self.journal.append(key, choose())
            self.save_seconds()
        return self.journal.values[key]

    def recall(self, key: str) -> Any:
        """The journalled value of `key`, None if there is none."""
        return self.journal.values.get(key)

    @property
    def entries(self) -> Sequence[Entry]:
        """The journal's lines, in the order in which they were written."""
        return tuple(self.journal.entries)

    def history(self, kind: type[T], needed: int = 0) -> History[T]:
        """The iterations that this run has accepted; its journal has entries of at least `needed` of them."""
        return History(self.path, kind, self.journal, needed)

    def iteration(self, number: int) -> Path:
        """The directory of an iteration, made if need be."""
        folder = self.path / ITERATIONS / f"{number:03d}"
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
        return max(0.0, msgspec.json.decode((path / ".seconds.json").read_bytes(), type=float))
    except (OSError, *UNREADABLE):
        return 0.0


def _identify(
    file: Path,
    identity: Mapping[str, Any],
    growing: Mapping[str, int],
    about: Mapping[str, Any],
    respell: Callable[[Mapping[str, Any]], Mapping[str, Any]],
) -> dict[str, Any]:
    """Record who this run is, or compare with what was recorded; returns that."""
    mine = {
        "identity": json.loads(json.dumps(identity)),
        "growing": dict(growing),
        "about": dict(about),
        "sealed": True,
    }
    if not file.exists():
        write_json(file, mine)
        return read_identity(file)
    recorded = read_identity(file)
    theirs, before = respell(recorded["identity"]), recorded["growing"]
    different = different_options(theirs, mine["identity"])
    lowered = [name for name, value in before.items() if name in growing and not _reaches(growing[name], value)]
    if different or lowered:
        pairs = [(name, theirs.get(name), mine["identity"].get(name)) for name in different]
        pairs += [(name, before[name], growing[name]) for name in lowered]
        differences = "; ".join(f"{name} is {_short(a)} there, {_short(b)} here" for name, a, b in pairs)
        raise NetadaptError(
            f"{file.parent} belongs to another run: {differences}",
            hint=f"{how_to_go_on(different, mine['identity'])} or name another directory",
            code="other-run",
        )
    if dict(growing) != before:
        write_json(file, recorded | {"growing": dict(growing)})
    return recorded


def _reaches(number: int, recorded: object) -> bool:
    """Whether a number is no less than what a file says, which may be anything."""
    return isinstance(recorded, int) and number >= recorded


def _short(value: object) -> str:
    text = value if isinstance(value, str) else json.dumps(value)
    return text if len(text) <= 60 else f"{text[:24]}..."
