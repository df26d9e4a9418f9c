"""A device with Python, behind a shell: the agent is copied there and does the work."""

from __future__ import annotations

import shlex
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from importlib import resources
from itertools import islice
from pathlib import Path

import msgspec

from netadapt_onnx.errors import NetadaptError
from netadapt_onnx.profilers.agent import COMPARED
from netadapt_onnx.profilers.checked_values import check_environment
from netadapt_onnx.profilers.devices.shell import ConnectionLostError, RemoteFailureError, Shell
from netadapt_onnx.profilers.devices.shell_device import ShellDevice
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

AGENT = "agent.py"
HINT = "nothing but agent.py may write to its output there"
# Lines before a description: what a login script prints, and then it is a flood.
MOST_DESCRIBING = 1000
# Records that say nothing new, in one connection: the earlier ones of the same results, and then it is a flood.
MOST_REPEATED = 10_000


class RemoteDevice(ShellDevice):
    """A device whose Python runs the agent.

    The time for more tries runs from the first failure after something was measured: a device that answers and never
    measures is given up like one that stays away, and sooner if the agent itself fails. `python` is its interpreter.
    """

    def __init__(
        self, shell: Shell, *, python: str = "python3", keep: bool = False, log: Callable[[str], None] | None = None
    ) -> None:
        super().__init__(shell, keep=keep, log=log)
        self._python = shlex.quote(python)
        self._files: dict[str, Path] = {}

    def _describe(self) -> Environment:
        """What the agent says. Raises NetadaptError if the device has no Python, numpy or onnxruntime."""
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
        self._retry(lambda: self._push_new(self._files.values()))

    def _push_agent(self) -> None:
        self._make_folder()
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
                self._retry(lambda: self._push_new(self._files.values()), backoff)

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
        what = f"{self.name} is not the device that it was"
        require_alike(described, now, what, "measure it anew, into another table")

    def remove(self, names: Sequence[str]) -> None:
        """Remove files through the shell, unless they are kept."""
        for name in names:
            self._files.pop(name, None)
        super().remove(names)
