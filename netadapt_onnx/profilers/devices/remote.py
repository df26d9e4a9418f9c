"""A device with Python, behind a shell: the agent is copied there, and does the work."""

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
from netadapt_onnx.profilers.checked_values import checked_environment
from netadapt_onnx.profilers.device import (
    LOST,
    AgentRecord,
    End,
    Environment,
    EnvironmentRecord,
    FailedModel,
    MeasuredModel,
    OutputsFile,
    decode_record,
)
from netadapt_onnx.profilers.devices.patience import PATIENCE_S, TIDYING_S, FailedThereError, LostError, Patience
from netadapt_onnx.profilers.devices.shell import Shell, last_line
from netadapt_onnx.profilers.execution import require_alike

T = TypeVar("T")

AGENT = "agent.py"
HINT = "nothing but agent.py may write to its output there"
# Lines before a description: what a login script prints, and then it is a flood.
MOST_DESCRIBING = 1000
# Records that say nothing new, in one connection: the earlier ones of the same results, and then it is a flood.
MOST_REPEATED = 10_000


class RemoteDevice:
    """A device whose Python runs the agent. A lost connection is tried again until `patience_s` (PATIENCE_S) are over.

    Those run from the first failure after something was measured: a device that answers and never measures is given up
    like one that stays away, and sooner if the agent itself fails.

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
        self._touched = self._lost = False

    def describe(self) -> Environment:
        """What the agent says. Raises NetadaptError if the device has no Python, numpy or onnxruntime."""
        if self._environment is None:
            self._environment = self._insisting(self._describe)
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
            return checked_environment(msgspec.json.decode(last_lines[-1] if last_lines else b""))
        except (ValueError, msgspec.DecodeError, RecursionError) as error:
            raise NetadaptError(
                f"{self.name}: the agent does not say what device this is: {error}",
                hint="--python names a Python that runs agent.py",
                code="results",
            ) from error

    @property
    def _agent(self) -> str:
        """What starts the agent; its passing files go with the folder too."""
        return f'cd {self._shell.folder} && TMPDIR="$PWD" {self._python} {AGENT}'

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
        done = self._shell.call(f"umask 077; mkdir -p {self._shell.folder}")
        self._touched = True
        if done.returncode:
            message = f"{self.name}: no folder {self._shell.folder} can be made: {last_line(done.stderr)}"
            raise NetadaptError(message, code="device")
        with resources.as_file(resources.files("netadapt_onnx.profilers").joinpath(AGENT)) as file:
            self._shell.push([file])

    def run(self, manifest: str, results: str) -> Iterator[AgentRecord]:
        """The agent's records. It goes on from its own results whenever the connection, or it itself, was cut off.

        Raises NetadaptError for a record that is none, and when it gets on no more.
        """
        answered: set[tuple[int, int]] = set()
        patience = self._patience()
        while True:
            try:
                for record in self._records(f"{self._agent} {manifest} {results} --stream", answered):
                    if isinstance(record, MeasuredModel | FailedModel):
                        patience = self._patience()
                    yield record
                    if isinstance(record, End):
                        return
                raise FailedThereError("the agent ended too early")
            except LostError as error:
                self._wait(patience, error)
            except ChildProcessError as error:  # a file is damaged or gone, or results are of something else
                self._wait(patience, FailedThereError(error.args[1] or f"exit code {error.args[0]}"))
                self._there.clear()
                self._insisting(
                    lambda: self._shell.call(f"rm -f {self._shell.folder}/{shlex.quote(results)}"), patience
                )
                self._insisting(self._push_agent, patience)
                self._insisting(self._push_new, patience)

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

    def _patience(self, seconds: float | None = None) -> Patience:
        return Patience(self.name, self._patience_s if seconds is None else seconds, self._log)

    def _insisting(self, act: Callable[[], T], patience: Patience | None = None) -> T:
        """What `act` returns, once the connection holds for long enough."""
        patience = patience or self._patience()
        while True:
            try:
                return act()
            except LostError as error:
                self._wait(patience, error)

    def _wait(self, patience: Patience, error: LostError) -> None:
        try:
            patience.wait(error)
        except NetadaptError as final:
            self._lost = final.code == LOST
            raise

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
        """Remove the folder, whatever has happened; a lost device keeps it until the same command runs again."""
        if not self._keep and self._touched:
            with suppress(NetadaptError):
                patience = self._patience(0.0 if self._lost else min(TIDYING_S, self._patience_s))
                self._insisting(lambda: self._shell.call(f"rm -rf {self._shell.folder}"), patience)
