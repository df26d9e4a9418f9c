"""A device with Python, behind a shell: the agent is copied there and does the work."""

from __future__ import annotations

import shlex
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from importlib import resources
from itertools import islice
from pathlib import Path
from typing import TypeVar

import msgspec

from netadapt_onnx.errors import NetadaptError
from netadapt_onnx.profilers.agent import COMPARED
from netadapt_onnx.profilers.checked_values import check_environment
from netadapt_onnx.profilers.device import LOST
from netadapt_onnx.profilers.devices.retry import RETRY_S, TIDYING_S, Backoff, ConnectionLostError, RemoteFailureError
from netadapt_onnx.profilers.devices.shell import Shell, last_line
from netadapt_onnx.profilers.execution import require_alike
from netadapt_onnx.profilers.records import (
    AgentRecord,
    End,
    Environment,
    EnvironmentRecord,
    FailedModel,
    MeasuredModel,
    OutputsFile,
    decode_record,
)

T = TypeVar("T")

AGENT = "agent.py"
HINT = "nothing but agent.py may write to its output there"
# Lines before a description: what a login script prints, and then it is a flood.
MOST_DESCRIBING = 1000
# Records that say nothing new, in one connection: the earlier ones of the same results, and then it is a flood.
MOST_REPEATED = 10_000


class RemoteDevice:
    """A device whose Python runs the agent.

    A lost connection is tried again until `retry_s` (RETRY_S) are over. Those run from the first failure after
    something was measured: a device that answers and never measures is given up like one that stays away, and sooner if
    the agent itself fails. `keep`: leave the files on the device; `log` is called when the connection is interrupted.
    """

    oldest = True

    def __init__(
        self,
        shell: Shell,
        *,
        python: str = "python3",
        keep: bool = False,
        retry_s: float | None = None,
        log: Callable[[str], None] | None = None,
    ) -> None:
        self.name = shell.name
        self._shell = shell
        self._python = shlex.quote(python)
        self._keep = keep
        self._retry_s = RETRY_S if retry_s is None else retry_s
        self._log = log or (lambda _: None)
        self._files: dict[str, Path] = {}
        self._pushed: set[str] = set()
        self._environment: Environment | None = None
        self._touched = self._lost = False

    def describe(self) -> Environment:
        """Describe the device by the agent. Raises NetadaptError if it has no Python, numpy or onnxruntime."""
        if self._environment is None:
            self._environment = self._retry(self._describe)
        return self._environment

    def _describe(self) -> Environment:
        self._push_agent()
        try:
            last_lines = deque(islice(self._shell.stream(f"{self._agent} --describe"), MOST_DESCRIBING), 1)
        except ChildProcessError as error:
            raise NetadaptError(
                f"{self.name}: the agent cannot run: {error.args[1] or f'exit code {error.args[0]}'}",
                hint="it needs Python 3.8, numpy and onnxruntime 1.16; --python names another interpreter",
                code="device",
            ) from error
        try:
            return check_environment(msgspec.json.decode(last_lines[-1] if last_lines else b""))
        except (ValueError, msgspec.DecodeError, RecursionError) as error:
            raise NetadaptError(
                f"{self.name}: the agent does not say what device this is: {error}",
                hint="--python names a Python that runs agent.py",
                code="results",
            ) from error

    @property
    def _agent(self) -> str:
        """The command that starts the agent; its temporary files go with the folder too."""
        return f'cd {self._shell.folder} && TMPDIR="$PWD" {self._python} {AGENT}'

    def push(self, files: Sequence[Path]) -> None:
        """Copy the files that this connection has not copied yet."""
        self.describe()
        self._files |= {file.name: file for file in files}
        self._retry(self._push_new)

    def _push_new(self) -> None:
        new = [file for name, file in self._files.items() if name not in self._pushed]
        if new:
            self._shell.push(new)
            self._pushed |= {file.name for file in new}

    def _push_agent(self) -> None:
        done = self._shell.call(f"umask 077; mkdir -p {self._shell.folder}")
        self._touched = True
        if done.returncode:
            message = f"{self.name}: no folder {self._shell.folder} can be made: {last_line(done.stderr)}"
            raise NetadaptError(message, code="device")
        with resources.as_file(resources.files("netadapt_onnx.profilers").joinpath(AGENT)) as file:
            self._shell.push([file])

    def run(self, manifest: str, results: str) -> Iterator[AgentRecord]:
        """Do the jobs by the agent; it goes on from its own results whenever the connection, or it itself, was cut off.

        Raises NetadaptError for a line that is no record, and when there is no more progress.
        """
        answered: set[tuple[int, int]] = set()
        backoff = self._backoff()
        while True:
            try:
                for record in self._records(f"{self._agent} {manifest} {results} --stream", answered):
                    if isinstance(record, MeasuredModel | FailedModel):
                        backoff = self._backoff()
                    yield record
                    if isinstance(record, End):
                        return
                raise RemoteFailureError("the agent ended too early")
            except ConnectionLostError as error:
                self._wait(backoff, error)
            except ChildProcessError as error:  # a file is damaged or gone, or results are of something else
                self._wait(backoff, RemoteFailureError(error.args[1] or f"exit code {error.args[0]}"))
                self._pushed.clear()
                self._retry(lambda: self._shell.call(f"rm -f {self._shell.folder}/{shlex.quote(results)}"), backoff)
                self._retry(self._push_agent, backoff)
                self._retry(self._push_new, backoff)

    def _records(self, command: str, answered: set[tuple[int, int]]) -> Iterator[AgentRecord]:
        """The records of one connection that say anything new; adds the models' to the `answered`."""
        repeated = 0
        for number, line in enumerate(self._shell.stream(command), 1):
            record = decode_record(line, f"{self.name}, record {number}", HINT)
            if isinstance(record, EnvironmentRecord):
                self._require_unchanged(record.environment)
            if isinstance(record, MeasuredModel | FailedModel) and (record.job, record.model) not in answered:
                answered.add((record.job, record.model))
                yield record
            elif isinstance(record, End | OutputsFile):
                yield record
            else:
                repeated += 1
            if repeated > MOST_REPEATED:
                raise NetadaptError(f"{self.name}: {repeated} records that say nothing new", code="results")

    def _require_unchanged(self, environment: Environment) -> None:
        """Raise NetadaptError if a record's device is not the one that was described."""
        described, now = ({key: side.get(key) for key in COMPARED} for side in (self.describe(), environment))
        require_alike(
            described, now, f"{self.name} is not the device that it was", "measure it anew, into another table"
        )

    def _backoff(self, seconds: float | None = None) -> Backoff:
        return Backoff(self.name, self._retry_s if seconds is None else seconds, self._log)

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
        for name in names:
            self._files.pop(name, None)
            self._pushed.discard(name)
        if not self._keep:
            words = " ".join(f"{self._shell.folder}/{shlex.quote(name)}*" for name in names)
            self._retry(lambda: self._shell.call(f"rm -f {words}"))

    def close(self) -> None:
        """Remove the folder, whatever has happened; a lost device keeps it until the same command runs again."""
        if not self._keep and self._touched:
            with suppress(NetadaptError):
                backoff = self._backoff(0.0 if self._lost else min(TIDYING_S, self._retry_s))
                self._retry(lambda: self._shell.call(f"rm -rf {self._shell.folder}"), backoff)
