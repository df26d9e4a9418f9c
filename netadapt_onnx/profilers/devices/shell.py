"""Commands and files on another machine, through a program of this one (ssh, adb); nothing waits for ever."""

from __future__ import annotations

import queue
import re
import shutil
import subprocess
import tempfile
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO

from netadapt_onnx.errors import NetadaptError

CALL_S = 60.0
# A working agent writes at least every few seconds; after such a silence the connection counts as dead.
SILENCE_S = 60.0
# Transfers slower than this are given up.
SLOWEST_BYTES_S = 20_000


class LostError(Exception):
    """The connection broke, or the device stopped answering: worth another try."""


class Shell:
    """A shell on another machine. Subclasses say with which programs of this machine it is reached.

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
        """What runs a command of the remote shell."""
        raise NotImplementedError

    def push_argv(self, files: Sequence[Path]) -> list[str]:
        """What copies files into the folder."""
        raise NotImplementedError

    def pull_argv(self, name: str, target: Path) -> list[str]:
        """What copies a file of the folder to here."""
        raise NotImplementedError

    def broken(self, code: int, error: str) -> bool:
        """Whether an exit code is the connection's and not the command's."""
        raise NotImplementedError

    def call(self, command: str, *, seconds: float = CALL_S) -> subprocess.CompletedProcess[str]:
        """Run a command to its end. Raises LostError, or NetadaptError if the device was never reached."""
        return self._done(self.argv(command), seconds)

    def push(self, files: Sequence[Path]) -> None:
        """Copy files into the folder. Raises LostError; NetadaptError if there is no room."""
        size = sum(file.stat().st_size for file in files)
        done = self._done(self.push_argv(files), CALL_S + size / SLOWEST_BYTES_S)
        if done.returncode:
            free = self.call(f"df -Pk {self.folder}").stdout.split()
            room = f"{int(free[-3]) / 1000:.3g} MB are free there" if len(free) > 3 and free[-3].isdigit() else ""
            raise NetadaptError(
                f"{self.name}: {size / 1e6:.3g} MB could not be copied to {self.folder}: {last_line(done.stderr)}",
                hint=room,
                code="device",
            )
        self._reached = True

    def pull(self, name: str) -> bytes:
        """A file of the folder. Raises LostError; NetadaptError if it is not there."""
        with tempfile.TemporaryDirectory(prefix="netadapt-") as folder:
            target = Path(folder) / "pulled"
            done = self._done(self.pull_argv(name, target), CALL_S * 10)
            if done.returncode or not target.exists():
                raise NetadaptError(f"{self.name}: no {name} came back: {last_line(done.stderr)}", code="device")
            return target.read_bytes()

    def stream(self, command: str) -> Iterator[bytes]:
        """The lines that a command writes, as it writes them; empty ones are signs of life only.

        Raises LostError when the connection breaks, the command is killed, or nothing comes for `SILENCE_S`;
        ChildProcessError with what it said last when it fails.
        """
        with tempfile.TemporaryFile() as errors:
            process = subprocess.Popen(
                self.argv(command), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=errors
            )
            assert process.stdout is not None
            lines = Lines(process.stdout)
            try:
                yield from lines
                code = process.wait(CALL_S)
            except (queue.Empty, subprocess.TimeoutExpired):
                raise LostError(f"no sign of life for {SILENCE_S:g} s") from None
            finally:
                process.kill()
                process.wait()
                lines.close()
            errors.seek(0)
            error = errors.read().decode(errors="replace")
        self._check(code, error)
        if code > 128:
            raise LostError(f"the agent was killed (signal {code - 128})")
        if code:
            raise ChildProcessError(code, last_line(error))

    def _done(self, argv: Sequence[str], seconds: float) -> subprocess.CompletedProcess[str]:
        try:
            done = subprocess.run(
                argv, stdin=subprocess.DEVNULL, capture_output=True, timeout=seconds, text=True, errors="replace"
            )
        except FileNotFoundError as error:
            raise NetadaptError(f"{argv[0]} is not installed here", code="missing-program") from error
        except subprocess.TimeoutExpired:
            if not self._reached:
                raise NetadaptError(f"{self.name} does not answer", code="device") from None
            raise LostError(f"no answer within {seconds:.0f} s") from None
        self._check(done.returncode, done.stderr)
        if not done.returncode:
            self._reached = True
        return done

    def _check(self, code: int, error: str) -> None:
        if not self.broken(code, error):
            return
        reason = last_line(error) or f"the connection broke ({code})"
        if not self._reached or self.FINAL.search(error):
            final = self.FINAL.search(error)
            raise NetadaptError(f"{self.name} cannot be reached: {final.group() if final else reason}", code="device")
        raise LostError(reason)


class Lines:
    """Whole lines of a pipe, read in a thread: waiting with a time limit works on every system then."""

    def __init__(self, stream: IO[bytes]) -> None:
        self._stream = stream
        self._lines: queue.Queue[bytes] = queue.Queue()
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()

    def __iter__(self) -> Iterator[bytes]:
        """Raises queue.Empty after `SILENCE_S` without a line; empty ones are left out."""
        while line := self._lines.get(timeout=SILENCE_S):
            if line.endswith(b"\n") and line.strip():
                yield line

    def close(self) -> None:
        """Close the pipe, whose writer has ended."""
        self._thread.join(1.0)
        if not self._thread.is_alive():
            self._stream.close()

    def _read(self) -> None:
        for line in iter(self._stream.readline, b""):
            self._lines.put(line)
        self._lines.put(b"")


def last_line(text: str) -> str:
    """The last line that says something."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1].removeprefix("error: ")[:300] if lines else ""


def program(name: str) -> str:
    """The path of a program of this machine. Raises NetadaptError if it is not installed."""
    found = shutil.which(name)
    if found is None:
        raise NetadaptError(f"{name} is not installed here", hint=f"install {name}", code="missing-program")
    return found
