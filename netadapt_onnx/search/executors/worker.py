"""What runs in a worker process: jobs from a pipe, one at a time, until the pipe closes."""

from __future__ import annotations

import faulthandler
import os
import pickle
import signal
import sys
from collections.abc import Callable
from multiprocessing.connection import Connection
from queue import SimpleQueue
from threading import Thread
from typing import Any

from netadapt_onnx.search.executors.protocol import Failed, Here, packed, perform


def serve(pipe: Connection, log: str) -> None:
    """Do the jobs that arrive, keeping the values they share; end with whoever holds the other end of the pipe.

    `log`: the file that gets what the process prints, a crash's traceback included.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; our master decides
    written = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    for stream in (1, 2):
        os.dup2(written, stream)
    faulthandler.enable(sys.__stderr__ or 2)
    arrived: SimpleQueue[bytes] = SimpleQueue()
    Thread(target=_receive, args=(pipe, arrived), daemon=True).start()
    kept: dict[str, Any] = {}
    while True:
        pipe.send_bytes(packed(_answer(arrived.get(), kept, lambda: pipe.send_bytes(b"began"))))


def _receive(pipe: Connection, arrived: SimpleQueue[bytes]) -> None:
    """Watch the pipe: a master that dies closes it, however it dies, and then nobody needs this process."""
    while True:
        try:
            arrived.put(pipe.recv_bytes())
        except (EOFError, OSError):
            os._exit(1)


def _answer(message: bytes, kept: dict[str, Any], begin: Callable[[], None]) -> object:
    """The outcome of one job, whose beginning is told before it."""
    try:
        work, keys, news, request = pickle.loads(message)
        kept |= {key: pickle.loads(value) for key, value in news.items()}
    except Exception as error:  # a module that only the master has, say
        begin()
        return Failed(f"a worker cannot read its job: {error}", repr(error))
    for key in kept.keys() - set(keys):
        del kept[key]
    begin()
    return perform(work, Here(threads=1), [kept[key] for key in keys], request)
