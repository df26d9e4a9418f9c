"""What the directory of every finished run holds: its result, the arguments that decided it, versions and device."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from netadapt_onnx.common.json_output import UNREADABLE
from netadapt_onnx.common.missing_files import missing_file
from netadapt_onnx.errors import NetadaptError
from netadapt_onnx.search.run_directory.file_names import IDENTITY_FILE, RESULT_FILE
from netadapt_onnx.search.run_directory.journal import AGAIN, read_identity, read_journal

Result = TypeVar("Result")


@dataclass(frozen=True)
class FinishedRun:
    """A finished run: its name, `result.json` as it is, and `identity` and `about` of `run.json`."""

    name: str
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
            NetadaptError: `result.json` holds something else.
        """
        try:
            return msgspec.json.decode(self.body, type=kind, dec_hook=lambda inner, value: inner(value))
        except UNREADABLE as error:
            raise unreadable_run(self.name, self.command, error) from error


def read_finished_run(run: Path, name: str) -> FinishedRun:
    """Read the result and the identity of a run, which the report calls `name`.

    Raises:
        NetadaptError: The folder is not a run directory, the run has not ended yet, or its files are damaged.
    """
    if not (run / IDENTITY_FILE).is_file():
        raise missing_file(run, what="not a run directory", otherwise="name the directory given with -o")
    if not (run / RESULT_FILE).is_file():
        raise NetadaptError(f"{run} has no result yet", hint="finish it with --resume", code="missing-file")
    document = read_identity(run / IDENTITY_FILE)
    body = (run / RESULT_FILE).read_bytes()
    read_journal(run).require_sealed(run / RESULT_FILE)
    return FinishedRun(name, body, document["identity"], document.get("about", {}))


def unreadable_run(run: str, command: str, error: Exception) -> NetadaptError:
    """The error for a file of a run that holds something else."""
    return NetadaptError(f"{run} is not readable as a run of `{command}`: {error}", hint=AGAIN, code="corrupt-run")
