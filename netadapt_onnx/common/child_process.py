"""A process of our own that gets messages through a pipe and answers them: whatever it dies of, we live on.

Not by `fork`, so that threads and accelerators of ours do not matter, and without importing the caller's script again.
"""

from __future__ import annotations

import faulthandler
import os
import signal
import sys
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection
from queue import SimpleQueue
from threading import Thread
from typing import Any

ONE_THREAD = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
# All threads share one heap of glibc's; else each thread that has ever run keeps what it freed, though it has ended.
ONE_HEAP = {"MALLOC_ARENA_MAX": "1"}
_END_S = 5.0


@dataclass(frozen=True)
class Death:
    """How a process died. `killed`: by SIGKILL, which nobody sends but the kernel when it is short of memory."""

    how: str
    killed: bool


class ChildProcess:
    """Runs `target(pipe, *arguments)`, which ends when the pipe does. It gets the `environment` besides ours."""

    def __init__(self, target: Callable[..., None], arguments: tuple[Any, ...], environment: Mapping[str, str]) -> None:
        from loky.backend import get_context

        context = get_context("loky")
        self._pipe: Connection
        self._pipe, theirs = context.Pipe()
        self._process = context.Process(target=target, args=(theirs, *arguments), env=dict(environment), daemon=True)
        self._process.start()
        theirs.close()

    def send(self, message: bytes) -> None:
        """Raises OSError if it has died."""
        self._pipe.send_bytes(message)

    def receive(self, timeout_s: float | None = None) -> bytes:
        """Its next answer. Raises EOFError or OSError if it has died, TimeoutError if it takes longer."""
        if not self._pipe.poll(timeout_s):
            raise TimeoutError
        return self._pipe.recv_bytes()

    def death(self) -> Death:
        """How it died, once `send` or `receive` has raised."""
        self._pipe.close()
        self._process.join(_END_S)
        code = self._process.exitcode
        how = f"of {signal.Signals(-code).name}" if code is not None and code < 0 else f"with exit code {code}"
        return Death(how, code is not None and -code == getattr(signal, "SIGKILL", 9))

    def kill(self) -> None:
        """End it, whatever it does; also from another thread."""
        with suppress(OSError):
            if sys.platform == "win32":
                self._process.terminate()  # there it is a kill
            else:
                os.kill(self._process.pid, signal.SIGKILL)
        self._process.join(_END_S)


def messages(pipe: Connection, log: str) -> SimpleQueue[bytes]:
    """In the child: what arrives. The process ends with whoever holds the other end of the pipe.

    `log`: the file that gets what the process prints, a crash's traceback included.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; our master decides
    written = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    for stream in (1, 2):
        os.dup2(written, stream)
    faulthandler.enable(sys.__stderr__ or 2)
    arrived: SimpleQueue[bytes] = SimpleQueue()
    Thread(target=_receive, args=(pipe, arrived), daemon=True).start()
    return arrived


def _receive(pipe: Connection, arrived: SimpleQueue[bytes]) -> None:
    """Watch the pipe: a master that dies closes it, however it dies, and then this process has no use."""
    while True:
        try:
            arrived.put(pipe.recv_bytes())
        except (EOFError, OSError):
            os._exit(1)


def packed(value: Any) -> bytes:
    """Pickled by value where pickle knows a name only: lambdas, and functions of scripts."""
    import cloudpickle

    return bytes(cloudpickle.dumps(value))
