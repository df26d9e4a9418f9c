"""What every run's directory holds: its result, what it was asked, and what it was made with."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from netadapt_onnx.common.json_output import UNREADABLE
from netadapt_onnx.errors import NetadaptError
from netadapt_onnx.search.run_directory.file_names import IDENTITY_FILE, RESULT_FILE
from netadapt_onnx.search.run_directory.journal import read_identity, read_journal
from netadapt_onnx.search.run_directory.lines import AGAIN

Result = TypeVar("Result")


@dataclass(frozen=True)
class Recorded:
    """A finished run: its name, `result.json` as it is, and `identity` and `about` of `run.json`."""

    name: str
    body: bytes
    identity: Mapping[str, Any]
    about: Mapping[str, Any]

    @property
    def command(self) -> str:
        """The command that it was a run of; `adapt` writes no name."""
        return str(self.identity.get("command", "adapt"))

    def result(self, kind: type[Result]) -> Result:
        """The result as its dataclass. Raises NetadaptError if it is none."""
        try:
            return msgspec.json.decode(self.body, type=kind, dec_hook=lambda inner, value: inner(value))
        except UNREADABLE as error:
            raise unreadable(self.name, self.command, error) from error


def read_recorded(run: Path, name: str) -> Recorded:
    """Read a finished run, to be called `name`. Raises NetadaptError if the folder is none, or it has not ended yet."""
    if not (run / IDENTITY_FILE).is_file():
        raise NetadaptError(f"{run} is not a run", hint="name the directory given with -o", code="missing-file")
    if not (run / RESULT_FILE).is_file():
        raise NetadaptError(f"{run} has no result yet", hint="finish it with --resume", code="missing-file")
    recorded = read_identity(run / IDENTITY_FILE)
    body = (run / RESULT_FILE).read_bytes()
    read_journal(run).require_sealed(run / RESULT_FILE)
    return Recorded(name, body, recorded["identity"], recorded.get("about", {}))


def unreadable(run: str, command: str, error: Exception) -> NetadaptError:
    """A file of the run holds something else."""
    return NetadaptError(f"{run} is not readable as a run of `{command}`: {error}", hint=AGAIN, code="corrupt-run")
