"""SIGKILL of `scale` at any moment, then `--resume`: the same models as a run that nobody killed."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx

import models
from kill_points import DIE_AT_CHANGE

# Runs `scale`; with a count, the process kills itself in front of its n-th change to the disk, which no handler sees.
RUN = (
    DIE_AT_CHANGE
    + """
import sys
from pathlib import Path

folder, out, fatal = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])
os.fsync, Path.replace, os.replace = counted(os.fsync), counted(Path.replace), counted(os.replace)
from netadapt_onnx import scale
from netadapt_onnx.common import charts
from netadapt_onnx.profilers.statistics import Ratio, Timing
from netadapt_onnx.scaling import latency_target
from netadapt_onnx.training import choose_settings, settings as training_settings
# Both runs must see the same times and choose alike by the clock to be comparable; other tests show the journal.
choose_settings.choose_settings = lambda *_, **__: training_settings.Settings()
one = Timing(1.0, (1.0, 1.0), 1)
latency_target.ratio = lambda *_, **__: Ratio(1.0, (1.0, 1.0), one, one)
charts.available = lambda: False
scale(
    folder / "model.onnx", folder / "data.npz", target=("params=0.5x", "macs=1.5x"), out=folder / out, resume=True,
    method=("neuralscale", "magnitude"), iterations=2, warmup_epochs=(1,), batches=1, epochs=1, seeds=2,
)
print(changes)
"""
)


def go(folder: Path, out: str, fatal: int = 0) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", RUN, str(folder), out, str(fatal)]
    return subprocess.run(command, capture_output=True, text=True, timeout=300)


def test_a_killed_run_resumes_to_the_same_models(tmp_path: Path) -> None:
    onnx.save(models.plain((8, 12, 16), size=8, classes=3), tmp_path / "model.onnx")
    rng = np.random.default_rng(0)
    x, y = rng.normal(0, 1, (160, 3, 8, 8)).astype(np.float32), rng.integers(0, 3, 160)
    np.savez(tmp_path / "data.npz", x_train=x[:128], y_train=y[:128], x_val=x[128:], y_val=y[128:])
    unkilled = go(tmp_path, "whole")
    assert unkilled.returncode == 0, unkilled.stderr
    changes = int(unkilled.stdout)
    for _ in range(2):  # each goes on where the last was killed
        killed = go(tmp_path, "killed", fatal=int(rng.integers(5, changes // 3)))
        assert killed.returncode == -signal.SIGKILL, killed.stderr
    resumed = go(tmp_path, "killed")
    assert resumed.returncode == 0, resumed.stderr
    results = [json.loads((tmp_path / run / "result.json").read_text()) | {"seconds": 0} for run in ("whole", "killed")]
    assert results[0] == results[1]
    for model in results[0]["models"]:
        assert (tmp_path / "whole" / model["model"]).read_bytes() == (tmp_path / "killed" / model["model"]).read_bytes()
    laws = [(tmp_path / run / "widths.toml").read_text() for run in ("whole", "killed")]
    assert laws[0] == laws[1]
