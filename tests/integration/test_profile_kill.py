"""A table whose build is killed with SIGKILL at random moments completes, and equals one that was not, in cells."""

from __future__ import annotations

import os
import random
import subprocess
import sys
import time
from pathlib import Path

from models import residual
from netadapt_onnx.profilers.table.file import Cell, EndToEndTime, Reference, read

# `make kill-tables` asks for more.
KILLS = int(os.environ.get("NETADAPT_KILLS", "3"))
BUILD = """
import sys, netadapt_onnx
netadapt_onnx.profile(sys.argv[1], sys.argv[2], models=24, time_cap_s=1e6)
"""
PATIENCE_S = 300


def start(model: Path, table: Path) -> subprocess.Popen[bytes]:
    return subprocess.Popen([sys.executable, "-c", BUILD, str(model), str(table)], stderr=subprocess.PIPE)


def cells(table: Path) -> list[tuple[object, ...]]:
    """All that a table says of its cells, less their times."""
    records = read(table)
    assert isinstance(records[-1], Reference)
    assert [r.model for r in records if isinstance(r, EndToEndTime)] == list(range(24))
    return [(c.model, c.layers, c.shapes, c.kernel) for c in records if isinstance(c, Cell)]


def test_a_build_killed_at_random_moments_completes_to_the_same_cells(tmp_path: Path) -> None:
    model = tmp_path / "m.onnx"
    model.write_bytes(residual(16, size=8).SerializeToString())
    began = time.monotonic()
    unbroken = start(model, tmp_path / "unbroken.jsonl")
    _, errors = unbroken.communicate(timeout=PATIENCE_S)
    assert unbroken.returncode == 0, errors.decode()
    took = time.monotonic() - began
    size = (tmp_path / "unbroken.jsonl").stat().st_size

    rng, table, killed = random.Random(0), tmp_path / "killed.jsonl", 0
    for kill in range(KILLS):
        process = start(model, table)
        # Half of the moments go by what is on the disk, the others by the clock: between writes, or before the first.
        moment = time.monotonic() + rng.uniform(0.2, 0.9) * took
        goal = size * (kill + 1) / (KILLS + 1)
        deadline = time.monotonic() + PATIENCE_S
        while process.poll() is None and time.monotonic() < deadline:
            size_bytes = table.stat().st_size if table.exists() else 0
            if (kill % 2 and time.monotonic() > moment) or (not kill % 2 and size_bytes >= goal):
                break
            time.sleep(0.005)
        killed += process.poll() is None
        process.kill()
        process.communicate()
    assert killed > 0
    last = start(model, table)
    _, errors = last.communicate(timeout=PATIENCE_S)
    assert last.returncode == 0, errors.decode()
    assert cells(table) == cells(tmp_path / "unbroken.jsonl")
