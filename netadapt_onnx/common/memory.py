"""Memory that is not needed now: what was freed goes back to the system, and large arrays lie in files.

A C library keeps what is freed for later, and glibc does so for every thread that has ever run: after a search of an
EfficientNet-Lite0 2.1 GB were kept so, beside 50 MB in use.
"""

from __future__ import annotations

import ctypes
import gc
import mmap
import sys
import tempfile
from collections.abc import Callable, Mapping

import numpy as np

# Arrays in a file begin at multiples of so many bytes, as numpy's own do in memory.
ALIGNMENT = 64
# glibc's number of `mallopt` for the most heaps that there may be.
M_ARENA_MAX = -8


def return_free_memory() -> None:
    """Give the system back what was freed, where the C library can be asked to (glibc); elsewhere do nothing."""
    gc.collect()
    trim = _of_glibc("malloc_trim")
    if trim is not None:
        trim(0)


def share_heap() -> None:
    """Let all threads of this process allocate from one heap, where the C library has one for each (glibc).

    For whoever owns the process, before it starts threads. Two replicas that train an EfficientNet-Lite0 then take 2.8
    GB instead of 3.3, since what one frees the other takes.
    """
    option = _of_glibc("mallopt")
    if option is not None:
        option(M_ARENA_MAX, 1)


class MappedArrays:
    """Arrays that are read now and then, in a file without a name: the system may take their memory, and reads it back.

    However this process ends, nothing of the file stays. Where the disk is full the arrays stay in memory.

    Attributes:
        arrays: The arrays by name; they may not be written to.
    """

    def __init__(self, arrays: Mapping[str, np.ndarray]) -> None:
        """Write them."""
        self.arrays: Mapping[str, np.ndarray] = arrays
        self._mapped: mmap.mmap | None = None
        if any(value.dtype.hasobject for value in arrays.values()):
            return
        try:
            with tempfile.TemporaryFile() as file:
                starts: dict[str, int] = {}
                # Written first and mapped later: a full disk is then an error, and not a deadly signal.
                for name, value in arrays.items():
                    file.write(bytes(-file.tell() % ALIGNMENT))
                    starts[name] = file.tell()
                    file.write(np.ascontiguousarray(value).data)
                file.flush()
                mapped = self._mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        except (OSError, ValueError):  # ValueError: there is nothing to map
            return
        self.arrays = {
            name: np.frombuffer(mapped, value.dtype, value.size, starts[name]).reshape(value.shape)
            for name, value in arrays.items()
        }

    def rest(self) -> None:
        """Let go of the memory until the arrays are read again, where the system can be asked to."""
        if self._mapped is not None and hasattr(self._mapped, "madvise"):
            self._mapped.madvise(mmap.MADV_DONTNEED)


def _of_glibc(name: str) -> Callable[..., int] | None:
    """A function of the C library's; None where it has none of this name."""
    return getattr(ctypes.CDLL(None), name, None) if sys.platform == "linux" else None
