"""SIGKILL at any moment, then `resume`: the same bytes as a run that nobody killed."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from models import plain

# Runs `adapt`; with a count, the process kills itself in front of its n-th change to the disk, which no handler sees.
RUN = """
import os, signal, sys
from pathlib import Path

folder, out, settings, fatal = Path(sys.argv[1]), sys.argv[2], eval(sys.argv[3]), int(sys.argv[4])
changes = 0

def counted(change):
    def change_or_die(*args, **options):
        global changes
        changes += 1
        if changes == fatal:
            os.kill(os.getpid(), signal.SIGKILL)
        return change(*args, **options)
    return change_or_die

os.fsync, Path.replace, Path.unlink = counted(os.fsync), counted(Path.replace), counted(Path.unlink)
from netadapt_onnx import adapt
from netadapt_onnx.training import settings as training_settings, trainer
# Both runs must make the same choices by the clock to be comparable; that a choice is journalled, one run shows.
trainer.choose_settings = lambda *_, **__: training_settings.Settings(replicas=2)
result = adapt(folder / "model.onnx", folder / "data.npz", "macs=0.5x", folder / out, resume=True, **settings)
print(changes, result.iterations)
"""
SETTINGS = {
    "reconstruct": {"step": 2, "init_reduction_ratio": 0.15, "final_epochs": 2},
    "finetune": {"step": 2, "init_reduction_ratio": 0.25, "rank": "finetune", "short_term": 2, "final_epochs": 1},
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "model.onnx").write_bytes(plain((8, 12, 16), size=8, classes=3).SerializeToString())
    rng = np.random.default_rng(0)
    train, val = rng.standard_normal((2, 256, 3, 8, 8)).astype(np.float32)
    np.savez(tmp_path / "data.npz", x_train=train, x_val=val[:64])
    return tmp_path


def go(folder: Path, out: str, rank: str, fatal: int = 0) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", RUN, str(folder), out, repr(SETTINGS[rank]), str(fatal)]
    return subprocess.run(command, capture_output=True, text=True, timeout=120)


@pytest.mark.parametrize(("rank", "shares"), [("reconstruct", (0.2, 0.5, 0.97)), ("finetune", (0.6,))])
def test_a_killed_run_resumes_to_the_same_model(folder: Path, rank: str, shares: tuple[float, ...]) -> None:
    whole = go(folder, "whole", rank)
    assert whole.returncode == 0, whole.stderr
    changes, iterations = map(int, whole.stdout.split())
    assert iterations >= 2
    done = 0
    for share in shares:
        killed = go(folder, "killed", rank, fatal=round(share * changes) - done)
        assert killed.returncode == -signal.SIGKILL, killed.stderr
        done = round(share * changes)
    resumed = go(folder, "killed", rank)
    assert resumed.returncode == 0, resumed.stderr
    files = [(folder / run / "model.onnx").read_bytes() for run in ("whole", "killed")]
    assert files[0] == files[1]
    histories = [(folder / run / "history.jsonl").read_text() for run in ("whole", "killed")]
    assert histories[0] == histories[1]
    results = [json.loads((folder / run / "result.json").read_text()) | {"seconds": 0} for run in ("whole", "killed")]
    assert results[0] == results[1]
