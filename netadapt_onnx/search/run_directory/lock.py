"""The lock of a run directory: one process works in it at a time."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from netadapt_onnx.errors import NetadaptError

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
