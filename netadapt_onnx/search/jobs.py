"""Proposals as jobs: a directory with its request, whose result file is renamed into place when it is done."""

from __future__ import annotations

import traceback
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import msgspec

from netadapt_onnx.runtime import one_line
from netadapt_onnx.search.run import write_atomically, write_json

REQUEST, RESULT, LOG = "request.json", "result.json", "error.txt"
Work = Callable[[Path, Mapping[str, Any]], Mapping[str, Any]]


def run_job(folder: Path, request: Mapping[str, Any], work: Work) -> dict[str, Any]:
    """The result of `work(folder, request)`, done now unless it was done before for the same request.

    A job that raises is done too: its result is `{"error": reason}`, with the traceback in `error.txt`. Only what the
    machine is to blame for (a full disk) is raised: the job is done again another time.
    """
    asked = msgspec.json.decode(msgspec.json.encode(request))
    if _read(folder / REQUEST) == asked:
        finished = _read(folder / RESULT)
        if finished is not None:
            return finished
    folder.mkdir(parents=True, exist_ok=True)
    (folder / RESULT).unlink(missing_ok=True)
    write_json(folder / REQUEST, asked)
    try:
        result = dict(work(folder, asked))
    except (OSError, MemoryError):
        raise
    except Exception as error:  # whatever a job dies of is that proposal's failure, not the run's
        write_atomically(folder / LOG, traceback.format_exc().encode())
        result = {"error": one_line(error)}
    write_json(folder / RESULT, result)
    return result


def forget(folder: Path) -> None:
    """Let a job be done again, whatever came of it."""
    (folder / RESULT).unlink(missing_ok=True)


def _read(path: Path) -> dict[str, Any] | None:
    try:
        return msgspec.json.decode(path.read_bytes(), type=dict[str, Any])
    except (OSError, msgspec.DecodeError):
        return None
