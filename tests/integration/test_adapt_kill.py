"""SIGKILL at any moment, then `resume`: the same bytes as a run that nobody killed."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from kill_points import DIE_AT_CHANGE
from models import plain

# At random moments; `make kill-campaign` asks for more, and for every preset.
KILLS = int(os.environ.get("NETADAPT_KILLS", "1"))
PATIENCE_S = 300

# Runs `adapt`; with a count, the process kills itself in front of its n-th change to the disk, which no handler sees.
RUN = (
    DIE_AT_CHANGE
    + """
import sys, time
from pathlib import Path

folder, out, settings, fatal = Path(sys.argv[1]), sys.argv[2], eval(sys.argv[3]), int(sys.argv[4])
os.fsync, Path.replace, Path.unlink = counted(os.fsync), counted(Path.replace), counted(Path.unlink)
from netadapt_onnx import adapt
from netadapt_onnx.training import choose_settings, settings as training_settings
# Both runs must make the same choices by the clock to be comparable; that a choice is journalled, one run shows.
choose_settings.choose_settings = lambda *_, **__: training_settings.Settings(replicas=2)
print("ready", flush=True)
began = time.monotonic()
result = adapt(folder / "model.onnx", folder / "data.npz", "macs=0.5x", folder / out, resume=True, **settings)
print(changes, result.iterations, time.monotonic() - began)
"""
)
SETTINGS: dict[str, dict[str, object]] = {
    "fast": {"preset": "fast", "step": 2, "final_epochs": 1},
    "balanced": {"step": 2, "init_reduction_ratio": 0.15, "final_epochs": 2},
    "thorough": {
        "preset": "thorough",
        "step": 2,
        "init_reduction_ratio": 0.25,
        "short_term": 2,
        "final_epochs": 1,
    },
    "paper": {"preset": "paper", "step": 2, "init_reduction_ratio": 0.25, "short_term": 2, "final_epochs": 1},
    "knapsack": {"strategy": "knapsack", "step": 2, "final_epochs": 1},
}
PRESETS = ("fast", "balanced", "thorough", "paper")
AT_RANDOM = tuple(SETTINGS) if KILLS > 1 else ("balanced", "knapsack")
# Shares of all changes to the disk at which a run is killed, one after the other.
KILL_POINTS = {
    "fast": (0.2, 0.6, 0.9),
    "balanced": (0.3, 0.7, 0.97),
    "thorough": (0.4, 0.8),
    "paper": (0.5, 0.85),
}
UnkilledRun = Callable[[str], tuple[Path, int, float]]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("kill")
    (path / "model.onnx").write_bytes(plain((8, 12, 16), size=8, classes=3).SerializeToString())
    rng = np.random.default_rng(0)
    train, val = rng.standard_normal((2, 256, 3, 8, 8)).astype(np.float32)
    labels = rng.integers(0, 3, 256)
    np.savez(path / "data.npz", x_train=train, y_train=labels, x_val=val[:64], y_val=labels[:64])
    return path


@pytest.fixture(scope="module")
def unkilled_run(folder: Path) -> UnkilledRun:
    """The run of a strategy that nobody kills: its directory, how often it changed the disk, and its seconds."""
    runs_by_strategy: dict[str, tuple[Path, int, float]] = {}

    def run_once(strategy: str) -> tuple[Path, int, float]:
        if strategy not in runs_by_strategy:
            run = folder / f"whole-{len(runs_by_strategy)}"
            process = go(folder, run, strategy)
            output, errors = process.communicate(timeout=PATIENCE_S)
            assert process.returncode == 0, errors
            changes, iterations, seconds = output.splitlines()[-1].split()
            assert int(iterations) >= 2
            runs_by_strategy[strategy] = run, int(changes), float(seconds)
        return runs_by_strategy[strategy]

    return run_once


def go(folder: Path, run: Path, strategy: str, fatal: int = 0) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", RUN, str(folder), run.name, repr(SETTINGS[strategy]), str(fatal)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def differences(one: Path, other: Path) -> list[str]:
    """The files in which two runs' results differ."""
    files = [
        name for name in ("model.onnx", "history.jsonl") if (one / name).read_bytes() != (other / name).read_bytes()
    ]
    results = [json.loads((run / "result.json").read_text()) | {"seconds": 0} for run in (one, other)]
    return files if results[0] == results[1] else [*files, "result.json"]


def accepted(run: Path) -> str:
    """The whole lines of a run's history."""
    file = run / "history.jsonl"
    return file.read_text().rpartition("\n")[0] if file.exists() else ""


@pytest.mark.seconds
@pytest.mark.parametrize("preset", PRESETS)
def test_a_run_killed_at_its_changes_to_the_disk_resumes_to_the_same_model(
    folder: Path, unkilled_run: UnkilledRun, preset: str
) -> None:
    unkilled, changes, _ = unkilled_run(preset)
    killed, done = folder / f"killed-{preset}", 0
    for share in KILL_POINTS[preset]:
        process = go(folder, killed, preset, fatal=round(share * changes) - done)
        _, errors = process.communicate(timeout=PATIENCE_S)
        assert process.returncode == -signal.SIGKILL, errors
        done = round(share * changes)
    process = go(folder, killed, preset)
    _, errors = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 0, errors
    assert differences(unkilled, killed) == []


@pytest.mark.parametrize("strategy", AT_RANDOM)
def test_runs_killed_at_random_moments_lose_nothing_and_differ_in_nothing(
    folder: Path, unkilled_run: UnkilledRun, strategy: str, tmp_path: Path
) -> None:
    """Killed again and again on the way; whenever one is through, it is compared and another begins."""
    unkilled, _, seconds = unkilled_run(strategy)
    rng, kills, runs, lost, different = random.Random(strategy), 0, 0, [], []
    before: str | None = ""
    while before is not None:
        run = folder / f"{tmp_path.name}-{runs}"
        process = go(folder, run, strategy)
        assert process.stdout is not None and process.stdout.readline().strip() == "ready"
        if kills < KILLS:
            time.sleep(rng.uniform(0, seconds))
            process.kill()
        _, errors = process.communicate(timeout=PATIENCE_S)
        if process.returncode == -signal.SIGKILL:
            kills += 1
            if not accepted(run).startswith(before or ""):
                lost.append(f"run {runs}: accepted iterations are gone")
            before = accepted(run)
            continue
        if process.returncode:
            lost.append(f"run {runs}: {errors}")
        elif files := differences(unkilled, run):
            different.append(f"run {runs}: {files}")
        runs += 1
        before = "" if kills < KILLS else None
    sys.stdout.write(f"{strategy}: {kills} kills in {runs} runs, {len(lost)} lost, {len(different)} different\n")
    assert not lost and not different, (lost, different)
