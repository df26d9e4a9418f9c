"""A device with Python, behind a shell: the agent is copied there, and does the work."""

from __future__ import annotations

import json
import shlex
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from importlib import resources
from pathlib import Path
from typing import TypeVar

import msgspec

from netadapt_onnx.errors import NetadaptError
from netadapt_onnx.profilers.devices.shell import LostError, Shell, last_line
from netadapt_onnx.profilers.measuring import Answer, End, Environment, Failed, Measured, decoded

T = TypeVar("T")

# Long enough for a device to start again.
PATIENCE_S = 180.0
LONGEST_PAUSE_S = 20.0
AGENT = "agent.py"


class RemoteDevice:
    """A device whose Python runs the agent. A lost connection is tried again until `patience_s` (PATIENCE_S) are over.

    `keep`: leave the files there; `log` hears of interruptions.
    """

    oldest = True

    def __init__(
        self,
        shell: Shell,
        *,
        python: str = "python3",
        keep: bool = False,
        patience_s: float | None = None,
        log: Callable[[str], None] | None = None,
    ) -> None:
        self.name = shell.name
        self._shell = shell
        self._python = shlex.quote(python)
        self._keep = keep
        self._patience_s = PATIENCE_S if patience_s is None else patience_s
        self._log = log or (lambda _: None)
        self._files: dict[str, Path] = {}
        self._there: set[str] = set()
        self._environment: Environment | None = None

    def describe(self) -> Environment:
        """What the agent says. Raises NetadaptError if the device has no Python, numpy or onnxruntime."""
        if self._environment is None:
            self._environment = self._insisting(self._describe)
        return self._environment

    def _describe(self) -> Environment:
        self._push_agent()
        done = self._shell.call(f"cd {self._shell.folder} && {self._python} {AGENT} --describe")
        if done.returncode:
            raise NetadaptError(
                f"{self.name}: the agent cannot run: {last_line(done.stderr) or f'exit code {done.returncode}'}",
                hint="it needs Python 3.8, numpy and onnxruntime 1.16; --python names another interpreter",
                code="device",
            )
        environment: Environment = json.loads(done.stdout.strip().splitlines()[-1])
        return environment

    def push(self, files: Sequence[Path]) -> None:
        """Those that this connection has not brought there yet."""
        self.describe()
        self._files |= {file.name: file for file in files}
        self._insisting(self._push_new)

    def _push_new(self) -> None:
        new = [file for name, file in self._files.items() if name not in self._there]
        if new:
            self._shell.push(new)
            self._there |= {file.name for file in new}

    def _push_agent(self) -> None:
        done = self._shell.call(f"mkdir -p {self._shell.folder}")
        if done.returncode:
            message = f"{self.name}: no folder {self._shell.folder} can be made: {last_line(done.stderr)}"
            raise NetadaptError(message, code="device")
        with resources.as_file(resources.files("netadapt_onnx.profilers").joinpath(AGENT)) as file:
            self._shell.push([file])

    def run(self, manifest: str, results: str) -> Iterator[Answer]:
        """The agent's records. It goes on from its own results whenever the connection, or it itself, was cut off."""
        command = f"cd {self._shell.folder} && {self._python} {AGENT} {manifest} {results} --stream"
        known: set[tuple[int, int]] = set()
        patience = _Patience(self._patience_s)
        while True:
            try:
                for line in self._shell.stream(command):
                    record = decoded(line)
                    patience = _Patience(self._patience_s)
                    if isinstance(record, End):
                        yield record
                        return
                    if not isinstance(record, Measured | Failed):
                        yield record
                    elif (record.job, record.model) not in known:
                        known.add((record.job, record.model))
                        yield record
                raise LostError("the agent ended too early")
            except (LostError, msgspec.DecodeError) as error:
                self._wait(patience, error)
            except ChildProcessError as error:  # a file is damaged or gone, or all of them are
                self._wait(patience, error)
                if patience.tries > 2:
                    raise NetadaptError(f"{self.name}: the agent failed: {error.args[1]}", code="device") from error
                self._there.clear()
                self._insisting(self._push_agent)
                self._insisting(self._push_new)

    def _insisting(self, act: Callable[[], T]) -> T:
        """What `act` returns, once the connection holds for long enough."""
        patience = _Patience(self._patience_s)
        while True:
            try:
                return act()
            except LostError as error:
                self._wait(patience, error)

    def _wait(self, patience: _Patience, error: Exception) -> None:
        if not patience.wait():
            raise NetadaptError(
                f"{self.name} was lost: {error.args[-1]}",
                hint="run the same command again: what was measured is kept",
                code="device-lost",
            ) from error
        self._log(f"{self.name}: {error.args[-1]}; trying again")

    def pull(self, name: str) -> bytes:
        """By the shell."""
        return self._insisting(lambda: self._shell.pull(name))

    def remove(self, names: Sequence[str]) -> None:
        """By the shell; left there with `keep`."""
        for name in names:
            self._files.pop(name, None)
            self._there.discard(name)
        if not self._keep:
            words = " ".join(f"{self._shell.folder}/{shlex.quote(name)}*" for name in names)
            self._insisting(lambda: self._shell.call(f"rm -f {words}"))

    def close(self) -> None:
        """Remove the folder; a device that is out of reach by now keeps it until the same command runs again."""
        if not self._keep and self._environment is not None:
            with suppress(LostError, NetadaptError):
                self._shell.call(f"rm -rf {self._shell.folder}")


class _Patience:
    """Pauses that grow, until the time is over."""

    def __init__(self, seconds: float) -> None:
        self._deadline = time.monotonic() + seconds
        self.tries = 0

    def wait(self) -> bool:
        """Pause; False if the time is over."""
        pause = min(LONGEST_PAUSE_S, 0.5 * 2**self.tries)
        self.tries += 1
        if time.monotonic() + pause > self._deadline:
            return False
        time.sleep(pause)
        return True
