"""What runs in a worker process: jobs from a pipe, one at a time, until the pipe closes."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Any

from netadapt_onnx.common.child_process import messages, packed
from netadapt_onnx.search.executors.protocol import JobFailure, WorkerInfo, perform


def serve(pipe: Connection, log: str) -> None:
    """Do the jobs that arrive, keeping the values they share; what the process prints is appended to the file `log`."""
    arrived = messages(pipe, log)
    values: dict[str, Any] = {}
    while True:
        pipe.send_bytes(packed(_answer(arrived.get(), values, lambda: pipe.send_bytes(b"started"))))


def _answer(message: bytes, values: dict[str, Any], on_start: Callable[[], None]) -> object:
    """The outcome of one job, which first reports that it has started."""
    try:
        work, keys, new_values, request = pickle.loads(message)
        values |= {key: pickle.loads(value) for key, value in new_values.items()}
    except Exception as error:  # a module that only the master has, say
        on_start()
        return JobFailure(f"a worker cannot read its job: {error}", repr(error))
    for key in values.keys() - set(keys):
        del values[key]
    on_start()
    return perform(work, WorkerInfo(threads=1), [values[key] for key in keys], request)
