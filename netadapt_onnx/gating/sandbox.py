"""Reads models in a process of its own: what a stranger's file does to a library ends there, as one failure.

A crash, a hang or too much memory ends that process; the next job starts a new one. Unlike a child by `fork` it shares
nothing with ours, works on every system, and our own process never imports what reads models.
"""

from __future__ import annotations

import queue
import signal
import subprocess
import sys
import threading
from contextlib import suppress
from pathlib import Path
from typing import IO, Self, TypeVar

import msgspec

from netadapt_onnx.errors import NetadaptError
from netadapt_onnx.gating.jobs import Failure, Job, Request, Success

T = TypeVar("T")

TIMEOUT_S = 60.0
MEMORY_BYTES = 4 * 10**9
_PACKAGES = str(Path(__file__).resolve().parents[2])
# -P: the folder we are in may hold a stranger's numpy.py.
_START = f"import sys; sys.path.insert(0, {_PACKAGES!r}); from netadapt_onnx.gating.worker import main; main()"


class Sandbox:
    """Does jobs one after the other in another process. Use it in a `with`: leaving ends that process."""

    def __init__(self, timeout_s: float = TIMEOUT_S, memory_bytes: int = MEMORY_BYTES) -> None:
        self.timeout_s = timeout_s
        self._memory_bytes = memory_bytes
        self._process: subprocess.Popen[bytes] | None = None
        self._lines: queue.SimpleQueue[bytes] = queue.SimpleQueue()

    def __enter__(self) -> Self:
        self._started()  # it imports while we do other things
        return self

    def __exit__(self, *_: object) -> None:
        self._end()

    def ask(self, job: Job, kind: type[T]) -> T:
        """Have a job done and return its result.

        Raises NetadaptError if it fails, crashes, or takes longer than `timeout_s`.
        """
        process = self._started()
        assert process.stdin is not None
        try:
            process.stdin.write(_encoded(job))
            process.stdin.flush()
            line = self._lines.get(timeout=max(0.0, self.timeout_s))
        except BrokenPipeError:
            line = b""
        except queue.Empty:
            self._end()
            raise NetadaptError(
                f"it took longer than {self.timeout_s:g} s",
                hint="raise --timeout if you trust the model",
                code="timeout",
            ) from None
        except BaseException:
            self._end()
            raise
        if not line.endswith(b"\n"):
            raise self._crashed(process)
        answer = msgspec.json.decode(line, type=Success | Failure)
        if isinstance(answer, Failure):
            raise NetadaptError(answer.message, hint=answer.hint, code=answer.code)
        return msgspec.json.decode(answer.value, type=kind)

    def _started(self) -> subprocess.Popen[bytes]:
        if self._process is None:
            self._process = subprocess.Popen(
                [sys.executable, "-P", "-c", _START, str(self._memory_bytes), str(self.timeout_s)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                start_new_session=True,  # Ctrl-C reaches us, and we end it
            )
            assert self._process.stdout is not None
            self._lines = queue.SimpleQueue()
            self._reader = threading.Thread(target=_forward, args=(self._process.stdout, self._lines), daemon=True)
            self._reader.start()
        return self._process

    def _crashed(self, process: subprocess.Popen[bytes]) -> NetadaptError:
        code = process.wait()
        self._end()
        name = f"exit code {code}"
        if code < 0:
            with suppress(ValueError):
                name = signal.Signals(-code).name
        return NetadaptError(
            f"reading it crashed onnx or onnxruntime ({name})", hint="export the model again", code="crash"
        )

    def _end(self) -> None:
        process, self._process = self._process, None
        if process is None:
            return
        with suppress(OSError):
            process.kill()
        process.wait()
        self._reader.join()
        for stream in (process.stdin, process.stdout):
            if stream is not None:
                with suppress(OSError):
                    stream.close()


def _encoded(job: Job) -> bytes:
    try:
        return msgspec.json.encode(Request(job, str(Path.cwd()))) + b"\n"
    except UnicodeEncodeError as error:
        raise NetadaptError("a path holds bytes that are no characters", hint="rename the file") from error


def _forward(stream: IO[bytes], lines: queue.SimpleQueue[bytes]) -> None:
    """Pass a process's lines on, then an empty one: reading with a time limit works so on every system."""
    for line in stream:
        lines.put(line)
    lines.put(b"")
