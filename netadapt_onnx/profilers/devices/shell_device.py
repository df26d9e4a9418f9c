"""What devices behind a shell have in common: a folder there, and more tries, not for ever, of what fails."""

from __future__ import annotations

import shlex
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TypeVar

from netadapt_onnx.errors import NetadaptError
from netadapt_onnx.profilers.device import LOST
from netadapt_onnx.profilers.devices.shell import ConnectionLostError, RemoteFailureError, Shell, last_line
from netadapt_onnx.profilers.records import Environment

T = TypeVar("T")

# Long enough for a device to start again.
RETRY_S = 180.0
LONGEST_PAUSE_S = 20.0
# Tidying up is worth this long.
TIDYING_S = 15.0
# What runs on a device that is reached may fail so many times in a row: it will not do better the next time.
MOST_FAILURES = 5


class Backoff:
    """Pauses that grow, from the first failure on until `seconds` are over or the device itself failed too often.

    After progress a new one is taken.
    """

    def __init__(self, device: str, seconds: float, log: Callable[[str], None]) -> None:
        self._device = device
        self._seconds = seconds
        self._log = log
        self._deadline: float | None = None
        self._tries = 0
        self._failures = 0

    def wait(self, error: ConnectionLostError) -> None:
        """Pause after a failure. Raises NetadaptError, which says what failed last, when there have been too many."""
        reason = error.args[-1]
        if self._deadline is None:
            self._deadline = time.monotonic() + self._seconds
        self._failures += isinstance(error, RemoteFailureError)
        if self._failures >= MOST_FAILURES:
            raise NetadaptError(
                f"{self._device}: measuring failed {self._failures} times in a row, the last time: {reason}",
                hint="see to the device (memory, disk, temperature) and run the same command again: it goes on",
                code="device",
            ) from error
        pause = min(LONGEST_PAUSE_S, 0.5 * 2**self._tries)
        self._tries += 1
        if time.monotonic() + pause > self._deadline:
            raise NetadaptError(
                f"{self._device} was lost: {reason}",
                hint="run the same command again: what was measured is kept",
                code=LOST,
            ) from error
        self._log(f"{self._device}: {reason}; trying again")
        time.sleep(pause)


class ShellDevice:
    """A device with a folder behind a shell.

    A lost connection is tried again until `RETRY_S` are over. `keep`: leave the files on the device; `log` is called
    when the connection is interrupted.
    """

    oldest = True

    def __init__(self, shell: Shell, *, keep: bool = False, log: Callable[[str], None] | None = None) -> None:
        self.name = shell.name
        self._shell = shell
        self._keep = keep
        self._log = log or (lambda _: None)
        self._pushed: set[str] = set()
        self._environment: Environment | None = None
        self._touched = self._lost = False

    def describe(self) -> Environment:
        """Describe the device, which is asked once. Raises NetadaptError for what is no description."""
        if self._environment is None:
            self._environment = self._retry(self._describe)
        return self._environment

    def _describe(self) -> Environment:
        raise NotImplementedError

    def _make_folder(self) -> None:
        done = self._shell.call(f"umask 077; mkdir -p {self._shell.folder}")
        self._touched = True
        if done.returncode:
            message = f"{self.name}: no folder {self._shell.folder} can be made: {last_line(done.stderr)}"
            raise NetadaptError(message, code="device")

    def _push_new(self, files: Iterable[Path]) -> None:
        """Copy those of the files that this connection has not copied yet."""
        new = [file for file in files if file.name not in self._pushed]
        if new:
            self._shell.push(new)
            self._pushed |= {file.name for file in new}

    def _backoff(self, seconds: float | None = None) -> Backoff:
        return Backoff(self.name, RETRY_S if seconds is None else seconds, self._log)

    def _retry(self, act: Callable[[], T], backoff: Backoff | None = None) -> T:
        """The result of `act`, once the connection holds for long enough."""
        backoff = backoff or self._backoff()
        while True:
            try:
                return act()
            except ConnectionLostError as error:
                self._wait(backoff, error)

    def _wait(self, backoff: Backoff, error: ConnectionLostError) -> None:
        try:
            backoff.wait(error)
        except NetadaptError as final:
            self._lost = final.code == LOST
            raise

    def pull(self, name: str) -> bytes:
        """Read a file through the shell."""
        return self._retry(lambda: self._shell.pull(name))

    def remove(self, names: Sequence[str]) -> None:
        """Remove files through the shell, unless they are kept."""
        self._pushed -= set(names)
        if not self._keep:
            words = " ".join(f"{self._shell.folder}/{shlex.quote(name)}*" for name in names)
            self._retry(lambda: self._shell.call(f"rm -f {words}"))

    def close(self) -> None:
        """Remove the folder, whatever has happened; a lost device keeps it until the same command runs again."""
        if not self._keep and self._touched:
            with suppress(NetadaptError):
                backoff = self._backoff(0.0 if self._lost else min(TIDYING_S, RETRY_S))
                self._retry(lambda: self._shell.call(f"rm -rf {self._shell.folder}"), backoff)
