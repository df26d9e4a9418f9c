"""What runs in a worker process: jobs from a pipe, one at a time, until the pipe closes."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Any

from netadapt_onnx.common.child_process import messages, packed
from netadapt_onnx.search.executors.protocol import Failed, WorkerInfo, perform


def serve(pipe: Connection, log: str) -> None:
    """Do the jobs that arrive, keeping the values they share. `log` gets what the process prints."""
    arrived = messages(pipe, log)
    kept: dict[str, Any] = {}
    while True:
        pipe.send_bytes(packed(_answer(arrived.get(), kept, lambda: pipe.send_bytes(b"began"))))


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
    return perform(work, WorkerInfo(threads=1), [kept[key] for key in keys], request)
