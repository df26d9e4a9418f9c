"""A disk that is full, Ctrl-C, torn files: an error or an end that says what to do, and a resume to the same result."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from interruptible import DEFAULT_SIGINT
from models import plain

# `adapt` as from the command line, in a process whose files may not grow beyond a limit in bytes (0: any size). With a
# file to wait for, it creates it when the first proposal is done, and then takes its time.
COMMAND = """
import os, resource, signal, sys, time
from pathlib import Path

limit, mark, *arguments = sys.argv[1:]
if int(limit):
    resource.setrlimit(resource.RLIMIT_FSIZE, (int(limit), int(limit)))
from netadapt_onnx.search.worker import WorkerContext
evaluate = WorkerContext.ranking_accuracy
def slowly(context, *arguments):
    accuracy = evaluate(context, *arguments)
    if mark:
        Path(mark).touch()
        time.sleep(1)
    return accuracy
WorkerContext.ranking_accuracy = slowly
from netadapt_onnx.cli import run
sys.exit(run(arguments))
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "model.onnx").write_bytes(plain((8, 12, 16), size=8, classes=3).SerializeToString())
    rng = np.random.default_rng(0)
    train, val = rng.standard_normal((2, 64, 3, 8, 8)).astype(np.float32)
    np.savez(tmp_path / "data.npz", x_train=train, x_val=val)
    return tmp_path


def command(folder: Path, out: str, *more: str, limit: int = 0, mark: str = "") -> list[str]:
    task = ["adapt", "model.onnx", "--data", "data.npz", "--budget", "macs=0.5x", "-o", out]
    fast = ["--step", "2", "--init-reduction-ratio", "0.2", "--final-epochs", "0", "--short-term", "0"]
    return [sys.executable, "-c", COMMAND, str(limit), mark, *task, *fast, *more]


def go(folder: Path, out: str, *more: str, limit: int = 0) -> subprocess.CompletedProcess[str]:
    argv = command(folder, out, *more, limit=limit)
    return subprocess.run(argv, cwd=folder, capture_output=True, text=True, timeout=120, check=False)


def outcome(folder: Path, out: str) -> tuple[str, bytes, object]:
    result = json.loads((folder / out / "result.json").read_text()) | {"seconds": 0}
    return (folder / out / "history.jsonl").read_text(), (folder / out / "model.onnx").read_bytes(), result


def test_a_full_disk_is_an_error_and_the_run_goes_on_when_there_is_room(folder: Path) -> None:
    full = go(folder, "run", limit=6000)
    assert full.returncode == 2
    lines = [line for line in full.stderr.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1
    assert lines[0] == (
        "error: run cannot be written to: File too large; make room; --resume goes on from here, nothing is lost"
    )
    # What a kill in the middle of a line leaves, besides.
    for name in ("history.jsonl", "journal.jsonl"):
        with (folder / "run" / name).open("ab") as file:
            file.write(b'{"iteration": 1, "gro')
    assert go(folder, "run", "--resume").returncode == 0
    assert go(folder, "whole").returncode == 0
    assert outcome(folder, "run") == outcome(folder, "whole")


@pytest.mark.parametrize("executor", ["local", "local:2"])
def test_ctrl_c_loses_nothing_and_says_how_to_go_on(folder: Path, executor: str) -> None:
    argv = command(folder, "run", "--executor", executor, mark=str(folder / "mark") if executor == "local" else "")
    argv = [*DEFAULT_SIGINT, *argv]
    with subprocess.Popen(argv, cwd=folder, stderr=subprocess.PIPE, text=True, start_new_session=True) as process:
        begun = folder / "run" / "iterations" / "001" / "proposals" / "000" / "request.json"
        deadline = time.monotonic() + 60
        while not (folder / "mark" if executor == "local" else begun).exists() and time.monotonic() < deadline:
            time.sleep(0.01)
        os.killpg(process.pid, signal.SIGINT)
        _, errors = process.communicate(timeout=60)
    assert process.returncode == 130, errors
    last = errors.strip().splitlines()[-1]
    assert last.startswith("interrupted; nothing is lost, run has all results so far; go on with `netadapt-onnx adapt ")
    assert last.endswith(" --resume`")
    assert not (folder / "run" / "result.json").exists()
    assert go(folder, "run", "--resume").returncode == 0
    assert go(folder, "whole").returncode == 0
    assert outcome(folder, "run") == outcome(folder, "whole")
