"""Cells of long benchmarks: each is done in a process of its own, is a line of a file, and is not done twice.

A benchmark that is stopped at any time goes on where it was. A cell that failed is done again.
"""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

Row = Mapping[str, Any]
FAILURE = "failure"


def read(results: Path) -> list[dict[str, Any]]:
    """All results; of a cell that failed and was done again the last. A line that a kill has torn is left out."""
    if not results.exists():
        return []
    rows = []
    for line in results.read_text().splitlines():
        try:
            rows.append(json.loads(line))
        except json.JSONDecodeError:
            continue
    return list({json.dumps(row["case"], sort_keys=True): row for row in rows if "case" in row}.values())


def complete(results: Path, cases: Iterable[Row], do: Callable[[Row], Row]) -> None:
    """Do the cells that have no result yet, one after the other, and write each as soon as it is done."""
    done = [row["case"] for row in read(results) if FAILURE not in row]
    torn = results.exists() and not results.read_bytes().endswith(b"\n")
    for case in cases:
        if case in done:
            continue
        row = {"case": dict(case), **do(case)}
        with results.open("a") as lines:
            lines.write(("\n" if torn else "") + json.dumps(row) + "\n")
        torn = False
        print(json.dumps(row), flush=True)


def apart(arguments: Sequence[str]) -> dict[str, Any]:
    """Run this program with other arguments: the last line that it prints, or how it failed."""
    environment = {"ORT_DISABLE_TELEMETRY": "1", **os.environ, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, sys.argv[0], *arguments]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    if done.returncode:
        return {FAILURE: (done.stderr.strip().splitlines() or ["?"])[-1][:300]}
    outcome: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return outcome


def cpu_seconds() -> float:
    """CPU seconds of this process and of all of its children that have ended."""
    usages = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(usage.ru_utime + usage.ru_stime for usage in usages)


@dataclass(frozen=True)
class Stopwatch:
    """Wall and CPU seconds since it was made."""

    wall: float = field(default_factory=time.monotonic)
    cpu: float = field(default_factory=cpu_seconds)

    def seconds(self, name: str) -> dict[str, float]:
        """`NAME_s` and `NAME_cpu_s`."""
        wall, cpu = time.monotonic() - self.wall, cpu_seconds() - self.cpu
        return {f"{name}_s": round(wall, 2), f"{name}_cpu_s": round(cpu, 2)}
