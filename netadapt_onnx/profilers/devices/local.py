"""This machine as a device: the agent's functions run in this process, on files in a temporary folder."""

from __future__ import annotations

import os
import shutil
import tempfile
import weakref
from collections.abc import Iterator, Sequence
from pathlib import Path

import msgspec

from netadapt_onnx.errors import NetadaptError
from netadapt_onnx.profilers import agent
from netadapt_onnx.profilers.records import AgentRecord, Environment


class LocalDevice:
    """This machine as a device; its folder goes with the object."""

    name = "local"
    oldest = False

    def __init__(self) -> None:
        self._folder = Path(tempfile.mkdtemp(prefix="netadapt-local-"))
        self._gone = weakref.finalize(self, shutil.rmtree, self._folder, ignore_errors=True)

    def describe(self) -> Environment:
        """Describe this machine by the agent."""
        return agent.environment()

    def push(self, files: Sequence[Path]) -> None:
        """Link files into the folder, which costs nothing."""
        for file in files:
            target = self._folder / file.name
            if target.exists():
                continue
            try:
                os.link(file, target)
            except OSError:  # a file system without links
                shutil.copy(file, target)

    def run(self, manifest: str, results: str) -> Iterator[AgentRecord]:
        """Do the jobs in this process: its clock is the same, and starting another takes as long as a small job."""
        plan = msgspec.json.decode((self._folder / manifest).read_bytes())
        try:
            for records in agent.work(self._folder, plan, self._folder / results):
                for record in records:
                    yield msgspec.convert(record, AgentRecord)
        except (ValueError, msgspec.ValidationError) as error:
            raise NetadaptError(f"{self.name}: {error}", code="device") from error

    def pull(self, name: str) -> bytes:
        """Read a file of the folder."""
        return (self._folder / name).read_bytes()

    def remove(self, names: Sequence[str]) -> None:
        """Remove files from the folder."""
        for name in names:
            (self._folder / name).unlink(missing_ok=True)

    def close(self) -> None:
        """Remove the folder."""
        self._gone()
