"""What the directory of every run holds: the arguments that decide it, versions and device, and a result at its end."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar

import msgspec

from netadapt_onnx.common.json_output import UNREADABLE
from netadapt_onnx.common.missing_files import missing_file
from netadapt_onnx.errors import NetadaptError
from netadapt_onnx.search.run_directory.file_names import IDENTITY_FILE, RESULT_FILE
from netadapt_onnx.search.run_directory.journal import AGAIN, read_identity, read_journal
from netadapt_onnx.search.run_directory.run import is_running

Result = TypeVar("Result")
# running: a process is at it; interrupted: none is, and it has no result.
State = Literal["finished", "running", "interrupted"]


@dataclass(frozen=True)
class RecordedRun:
    """A run as its directory has it.

    Attributes:
        name: What the report calls it.
        state: Whether it has ended.
        body: `result.json` as it is; empty for a run that has not ended.
        identity, about: Those of `run.json`.
    """

    name: str
    state: State
    body: bytes
    identity: Mapping[str, Any]
    about: Mapping[str, Any]

    @property
    def command(self) -> str:
        """The command that wrote the run; `adapt` writes no name."""
        return str(self.identity.get("command", "adapt"))

    def result(self, kind: type[Result]) -> Result:
        """The result as a dataclass of this kind.

        Raises:
            NetadaptError: The run has no result yet, or `result.json` holds something else.
        """
        if self.state != "finished":
            raise NetadaptError(f"{self.name} has no result yet", hint="finish it with --resume", code="missing-file")
        try:
            return msgspec.json.decode(self.body, type=kind, dec_hook=lambda inner, value: inner(value))
        except UNREADABLE as error:
            raise unreadable_run(self.name, self.command, error) from error


def read_recorded_run(run: Path, name: str) -> RecordedRun:
    """Read the identity of a run, which the report calls `name`, and its result if it has one.

    A run that a process is at has none: what is there is of a run that was ended early and now goes on.

    Raises:
        NetadaptError: The folder is not a run directory, or its files are damaged.
    """
    if not (run / IDENTITY_FILE).is_file():
        raise missing_file(run, what="not a run directory", otherwise="name the directory given with -o")
    document = read_identity(run / IDENTITY_FILE)
    identity, about = document["identity"], document.get("about", {})
    if is_running(run):
        return RecordedRun(name, "running", b"", identity, about)
    if not (run / RESULT_FILE).is_file():
        return RecordedRun(name, "interrupted", b"", identity, about)
    body = (run / RESULT_FILE).read_bytes()
    read_journal(run).require_sealed(run / RESULT_FILE)
    return RecordedRun(name, "finished", body, identity, about)


def unreadable_run(run: str, command: str, error: Exception) -> NetadaptError:
    """The error for a file of a run that holds something else."""
    return NetadaptError(f"{run} is not readable as a run of `{command}`: {error}", hint=AGAIN, code="corrupt-run")
