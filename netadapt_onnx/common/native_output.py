"""What libraries write to stdout past Python, where a program's result belongs."""

from __future__ import annotations

import ctypes
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager

_STDOUT = 1


@contextmanager
def native_stdout_discarded() -> Iterator[None]:
    """A context in which what C libraries print is dropped; it is the whole process's, other threads' included.

    They write into a buffer of their own, which is emptied on both ends, so that nothing of the context comes out
    later and nothing from before is lost.
    """
    try:
        kept = os.dup(_STDOUT)
    except OSError:  # it is closed
        yield
        return
    library = ctypes.CDLL("ucrtbase" if sys.platform == "win32" else None)
    library.fflush(None)
    nowhere = os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nowhere, _STDOUT)
        yield
    finally:
        library.fflush(None)
        os.dup2(kept, _STDOUT)
        os.close(kept)
        os.close(nowhere)
