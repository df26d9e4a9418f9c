"""Files written atomically: aside, then renamed; what killed processes have left behind is removed.

Whoever writes aside holds a lock on that file, which the operating system frees when the process ends, however it ends:
a file that no process holds is a leftover.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from netadapt_onnx.common.missing_files import missing_file
from netadapt_onnx.errors import NetadaptError

_LEFTOVER = re.compile(r"\.(?P<name>.+)\.\d+\.tmp", re.DOTALL)


@contextmanager
def aside(path: Path) -> Iterator[Path]:
    """Where to write what becomes `path` when the block ends; nothing does if it raises.

    What killed processes left of earlier tries is removed.
    """
    remove_leftovers(path.parent, path.name)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    with _created(temporary) as held:
        try:
            yield temporary
            if sys.platform == "win32":  # which renames no open file
                held.close()
            temporary.replace(path)
        except BaseException:
            held.close()
            temporary.unlink(missing_ok=True)
            raise


@contextmanager
def folder_aside(temporary: Path) -> Iterator[Path]:
    """A folder beside what `aside` yields, for files that must have their own names; it goes when the block ends.

    What a killed process left of it is removed with the file that it stands beside.
    """
    folder = _folder_of(temporary)
    folder.mkdir()
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _folder_of(temporary: Path) -> Path:
    return temporary.with_name(f"{temporary.name}.folder")


def write_atomically(path: Path, data: bytes) -> None:
    """Write a file completely or not at all, also when the power fails."""
    with aside(path) as temporary, temporary.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def refuse_existing(path: Path, overwrite: bool) -> None:
    """Raise NetadaptError if `path` exists and may not be replaced (only a file ever may), or its folder is missing."""
    if path.exists() and not path.is_file():
        what = "a folder" if path.is_dir() else "no file"
        raise NetadaptError(f"{path} exists and is {what}", hint="name a file", code="exists")
    if path.exists() and not overwrite:
        raise NetadaptError(f"{path} exists", hint="choose another path or pass --overwrite", code="exists")
    if not path.parent.is_dir():
        raise missing_file(path.parent, what="no such folder")


def remove_leftovers(folder: Path, name: str | None = None, *, below: bool = False) -> None:
    """Remove what killed processes were writing aside in a folder, of the file `name` or of any; or `below` it too."""
    for file in folder.rglob(".*.tmp") if below else folder.glob(".*.tmp"):
        match = _LEFTOVER.fullmatch(file.name)
        if match and name in (None, match["name"]) and not file.is_symlink() and file.is_file():
            with suppress(OSError):  # gone meanwhile, or not ours to touch
                _remove_unless_held(file)


def lock(file: BinaryIO, *, wait: bool = False) -> bool:
    """Hold an open file until it is closed; False if it is held otherwise and we do not `wait`."""
    try:
        if sys.platform == "win32":
            import msvcrt

            file.seek(0)
            msvcrt.locking(file.fileno(), msvcrt.LK_LOCK if wait else msvcrt.LK_NBLCK, 1)
        else:
            import fcntl

            fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except OSError:
        return False
    return True


def digest(path: Path) -> str:
    """SHA-256 of a file, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _remove_unless_held(file: Path) -> None:
    if sys.platform == "win32":  # which removes no open file
        file.unlink()
        shutil.rmtree(_folder_of(file), ignore_errors=True)
        return
    with file.open("r+b") as leftover:
        if lock(leftover):
            shutil.rmtree(_folder_of(file), ignore_errors=True)
            file.unlink()


def _created(path: Path) -> BinaryIO:
    """A file of this name that this process holds; on Windows, having it open is enough, and a lock were in the way."""
    while True:
        file = path.open("ab")
        if sys.platform == "win32" or not lock(file, wait=True):  # or a file system that knows no locks
            return file
        with suppress(FileNotFoundError):
            if os.path.samestat(os.fstat(file.fileno()), path.stat()):
                return file
        file.close()  # another thread's until now, or taken for left over before it was held
