"""Commands and files on another machine, through a program of this one (ssh, adb).

Slow is no failure and silence is: what takes long counts as dead when nothing moves any more. Nothing waits for ever,
and nothing that a device sends may fill this machine.
"""

from __future__ import annotations

import queue
import re
import shutil
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import IO

from netadapt_onnx.common.escape import escape
from netadapt_onnx.errors import NetadaptError

CALL_S = 60.0
# A working agent writes at least every few seconds; after such a silence the connection counts as dead.
SILENCE_S = 60.0
# Nothing more of a file has arrived for so long: scp writes 255 kB at a time, and ssh itself notices dead connections.
COPY_SILENCE_S = 300.0
# A device that shows signs of life and nothing else for so long has hung.
STALLED_S = 4 * 3600.0
# What a command may say, a line of the agent's, a file that comes back: more is no answer to what was asked.
MOST_OUTPUT_BYTES, MOST_LINE_BYTES, MOST_PULLED_BYTES = 4 << 20, 64 << 20, 2 << 30


class ConnectionLostError(Exception):
    """The connection broke, or the device stopped answering: worth another try."""


class RemoteFailureError(ConnectionLostError):
    """The connection holds, and what runs on the device ended without doing its work."""


class Shell:
    """A shell on another machine, reached by programs of this one that subclasses name.

    `folder` is a path there of our own making that needs no quotes; `name` is what users call the device.
    """

    # What a program says when another try would end alike.
    FINAL = re.compile("(?!)")

    def __init__(self, name: str, folder: str) -> None:
        assert re.fullmatch(r"[\w./-]+", folder)
        self.name = name
        self.folder = folder
        self._reached = False

    def argv(self, command: str) -> list[str]:
        """The arguments of the program that runs a command of the remote shell."""
        raise NotImplementedError

    def push_argv(self, files: Sequence[Path]) -> list[str]:
        """The arguments of the program that copies files into the folder."""
        raise NotImplementedError

    def pull_argv(self, name: str, target: Path) -> list[str]:
        """The arguments of the program that copies a file of the folder to this machine."""
        raise NotImplementedError

    def broken(self, code: int, error: str) -> bool:
        """Whether an exit code is the connection's and not the command's."""
        raise NotImplementedError

    def call(self, command: str, *, seconds: float = CALL_S) -> subprocess.CompletedProcess[str]:
        """Run a command to its end. Raises ConnectionLostError, or NetadaptError if the device was never reached."""
        return self._done(self.argv(command), seconds)

    def push(self, files: Sequence[Path]) -> None:
        """Copy files into the folder, however long it takes as long as something arrives.

        Raises ConnectionLostError; NetadaptError if there is no room.
        """
        size = sum(file.stat().st_size for file in files)
        done = self._done(self.push_argv(files), SILENCE_S, self._listing)
        if done.returncode:
            free = self.call(f"df -Pk {self.folder}").stdout.split()
            room = f"{int(free[-3]) / 1000:.3g} MB are free there" if len(free) > 3 and free[-3].isdigit() else ""
            raise NetadaptError(
                f"{self.name}: {size / 1e6:.3g} MB could not be copied to {self.folder}: {last_line(done.stderr)}",
                hint=room,
                code="device",
            )
        self._reached = True

    def _listing(self) -> str | None:
        """Names and sizes in the folder, by which copying shows progress; None if they cannot be had."""
        try:
            return self.call(f"ls -ln {self.folder}").stdout
        except (ConnectionLostError, NetadaptError):
            return None

    def pull(self, name: str) -> bytes:
        """Read a file of the folder. Raises ConnectionLostError; NetadaptError if there is none, or it is enormous."""
        with tempfile.TemporaryDirectory(prefix="netadapt-") as folder:
            target = Path(folder) / "pulled"

            def size() -> int:
                bytes_so_far = target.stat().st_size if target.exists() else 0
                if bytes_so_far > MOST_PULLED_BYTES:
                    raise NetadaptError(
                        f"{self.name}: {name} there has more than {MOST_PULLED_BYTES} bytes", code="device"
                    )
                return bytes_so_far

            done = self._done(self.pull_argv(name, target), 1.0, size)
            if done.returncode or not target.exists():
                raise NetadaptError(f"{self.name}: no {name} came back: {last_line(done.stderr)}", code="device")
            size()
            return target.read_bytes()

    def stream(self, command: str) -> Iterator[bytes]:
        """Yield the lines that a command writes, as it writes them; empty ones are signs of life only.

        Raises:
            ConnectionLostError: the connection broke, the command was killed, or nothing came for `SILENCE_S`.
            ChildProcessError: the command failed; with its exit code and its last line.
            NetadaptError: a line did not end.
        """
        process = self._started(self.argv(command))
        lines, errors = Lines(process.stdout, self.name), Output(process.stderr)
        try:
            yield from lines
            code = process.wait(CALL_S)
        except (queue.Empty, subprocess.TimeoutExpired):
            raise ConnectionLostError(f"no sign of life for {SILENCE_S:g} s") from None
        finally:
            process.kill()
            process.wait()
            lines.close()
            error = errors.text()
        self._check(code, error)
        if code > 128:
            raise RemoteFailureError(f"the agent was killed (signal {code - 128})")
        if code:
            raise ChildProcessError(code, last_line(error))

    def _started(self, argv: Sequence[str]) -> subprocess.Popen[bytes]:
        try:
            return subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        except FileNotFoundError as error:
            raise NetadaptError(f"{argv[0]} is not installed here", code="missing-program") from error

    def _done(
        self, argv: Sequence[str], seconds: float, progress: Callable[[], object] | None = None
    ) -> subprocess.CompletedProcess[str]:
        """Run a program to its end. `progress` is looked at every `seconds`; without it they are the limit."""
        process = self._started(argv)
        output, errors = Output(process.stdout), Output(process.stderr)
        try:
            await_end(process, seconds, max(seconds, COPY_SILENCE_S) if progress else seconds, progress)
        except subprocess.TimeoutExpired as error:
            if not self._reached:
                raise NetadaptError(f"{self.name} does not answer", code="device") from None
            reason = "nothing more was copied" if progress else "no answer"
            raise ConnectionLostError(f"{reason} within {error.timeout:.0f} s") from None
        finally:
            process.kill()
            process.wait()
            done = subprocess.CompletedProcess(argv, process.returncode, output.text(), errors.text())
        self._check(done.returncode, done.stderr)
        if not done.returncode:
            self._reached = True
        return done

    def _check(self, code: int, error: str) -> None:
        if not self.broken(code, error):
            return
        reason, final = last_line(error) or f"the connection broke ({code})", self.FINAL.search(error)
        if not self._reached or final:
            raise NetadaptError(f"{self.name} cannot be reached: {final.group() if final else reason}", code="device")
        raise ConnectionLostError(reason)


def await_end(
    process: subprocess.Popen[bytes], every_s: float, silence_s: float, progress: Callable[[], object] | None
) -> None:
    """Wait until a program ends.

    Raises TimeoutExpired when `progress`, looked at now and then, stood still for so long.
    """
    last, silent_s = None, 0.0
    while True:
        try:
            process.wait(every_s)
            return
        except subprocess.TimeoutExpired:
            silent_s += every_s
        now = progress() if progress else None
        if now is not None and now != last:
            last, silent_s = now, 0.0
        elif silent_s >= silence_s:
            raise subprocess.TimeoutExpired(process.args, silence_s)


class PipeReader:
    """Reads a pipe in a thread: waiting with a time limit works on every system then."""

    def __init__(self, stream: IO[bytes] | None) -> None:
        assert stream is not None
        self._stream = stream
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Close the pipe, whose writer has ended; a process that it left behind may go on writing."""
        self._thread.join(1.0)
        if not self._thread.is_alive():
            self._stream.close()

    def _chunks(self) -> Iterator[bytes]:
        return iter(lambda: self._stream.read1(1 << 16), b"")  # type: ignore[attr-defined]

    def _read(self) -> None:
        raise NotImplementedError


class Output(PipeReader):
    """The end of a program's output: never more than `MOST_OUTPUT_BYTES` of it."""

    def __init__(self, stream: IO[bytes] | None) -> None:
        self._kept = bytearray()
        super().__init__(stream)

    def text(self) -> str:
        """The text, once the program has ended."""
        self.close()
        return bytes(self._kept).decode(errors="replace")

    def _read(self) -> None:
        for chunk in self._chunks():
            self._kept += chunk
            del self._kept[:-MOST_OUTPUT_BYTES]


class Lines(PipeReader):
    """Complete lines of a pipe."""

    def __init__(self, stream: IO[bytes] | None, device: str) -> None:
        self._device = device
        # Few: a device that writes faster than it is listened to waits.
        self._lines: queue.Queue[bytes | None] = queue.Queue(8)
        self._closed = threading.Event()
        super().__init__(stream)

    def __iter__(self) -> Iterator[bytes]:
        """Yield the lines; empty ones are left out, and so is a last one that was cut off.

        Raises queue.Empty after `SILENCE_S` in which nothing came; NetadaptError for lines that do not end.
        """
        spoken = time.monotonic()
        while line := self._lines.get(timeout=SILENCE_S):
            if line.strip():
                yield line
                spoken = time.monotonic()
            elif time.monotonic() - spoken > STALLED_S:
                raise NetadaptError(
                    f"{self._device} shows signs of life, and no result for {STALLED_S / 3600:g} hours", code="device"
                )
        if line is None:
            raise NetadaptError(
                f"{self._device} wrote a line of more than {MOST_LINE_BYTES >> 20} MiB: that is no result",
                code="results",
            )

    def close(self) -> None:
        """Close the pipe, and listen to no more lines."""
        self._closed.set()
        super().close()

    def _read(self) -> None:
        parts: list[bytes] = []
        size = 0
        for chunk in self._chunks():
            first, *more = chunk.split(b"\n")
            parts, size = [*parts, first], size + len(first)
            if size > MOST_LINE_BYTES:
                self._put(None)
                return
            if not more:
                self._put(b"\n")  # part of a line is a sign of life too
            for piece in more:
                self._put(b"".join(parts) + b"\n")
                parts, size = [piece], len(piece)
        self._put(b"")

    def _put(self, line: bytes | None) -> None:
        while not self._closed.is_set():
            try:
                self._lines.put(line, timeout=0.1)
                return
            except queue.Full:
                continue


def last_line(text: str) -> str:
    """The last line that is not empty."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return escape(lines[-1].removeprefix("error: ")[:300]) if lines else ""


def program(name: str) -> str:
    """Find a program of this machine. Raises NetadaptError if it is not installed."""
    path = shutil.which(name)
    if path is None:
        raise NetadaptError(f"{name} is not installed here", hint=f"install {name}", code="missing-program")
    return path
