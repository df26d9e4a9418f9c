"""What a command suggests works as it is printed: every suggestion of every command is run."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from models import plain
from netadapt_onnx import cli
from netadapt_onnx.profilers import timing
from netadapt_onnx.profilers.bundle import compare
from netadapt_onnx.profilers.bundle import write as bundling
from netadapt_onnx.profilers.devices import opening
from netadapt_onnx.profilers.table import build
from netadapt_onnx.profilers.timing import TimingPlan
from simulated_device import SimulatedDevice
from suggestions import suggestions

DATA = ["--data", "data.npz"]
ADAPT = ["adapt", "model.onnx", *DATA, "--final-epochs", "0", "--portfolio", "off", "--preset", "fast"]
# What cases need, and the command that makes it, as their user would have done.
MADE_BY = {
    "half.onnx": ["prune", "model.onnx", "--ratio", "0.5", "-o", "half.onnx"],
    "counted": [*ADAPT, "--budget", "macs=0.8x", "-o", "counted"],
    "there.jsonl": ["profile", "model.onnx", "--table", "there.jsonl", "--max-time", "20s"],
    "netadapt-baseline.json": ["gate", "model.onnx", "--update-baseline"],
}
# Commands with the words that their suggestions have to contain.
COMMANDS: list[tuple[list[str], list[str]]] = [
    (["inspect", "model.onnx"], ["prune model.onnx"]),
    (["prune", "model.onnx", "--ratio", "0.5"], ["prune model.onnx --ratio 0.5 -o "]),
    (["prune", "model.onnx", "--ratio", "0.5", "-o", "cut.onnx"], ["diff model.onnx cut.onnx"]),
    (
        ["prune", "model.onnx", "--ratio", "0.5", *DATA, "--reconstruct", "-o", "solved.onnx"],
        ["finetune solved.onnx --teacher model.onnx --data data.npz"],
    ),
    (["diff", "model.onnx", "half.onnx"], ["gate half.onnx --baseline model.onnx"]),
    (["diff", "model.onnx", "model.onnx"], []),
    (["time", "model.onnx", "half.onnx", "--max-time", "2s"], ["diff model.onnx half.onnx"]),
    (["evaluate", "model.onnx", "half.onnx", *DATA], ["diff model.onnx half.onnx"]),
    (["evaluate", "model.onnx", *DATA, "--no-latency"], ["inspect model.onnx"]),
    (
        ["finetune", "half.onnx", "--teacher", "model.onnx", *DATA, "--epochs", "1", "-o", "trained.onnx"],
        ["evaluate half.onnx trained.onnx --data data.npz"],
    ),
    (["gate", "model.onnx", "--max", "size=1GB"], ["gate model.onnx --update-baseline"]),
    (["gate", "model.onnx", "--max-increase", "size=2%", "--baseline", "netadapt-baseline.json"], []),
    (["gate", ".", "--max", "size=1GB"], ["gate . --update-baseline"]),
    (
        ["gate", "model.onnx", "--update-baseline", "--baseline", "other.json"],
        ["gate model.onnx --baseline other.json --max-increase"],
    ),
    (
        ["gate", "half.onnx", "--max-increase", "size=2%", "--baseline", "model.onnx"],
        ["gate half.onnx --update-baseline"],
    ),
    (["gate", "model.onnx", "--max", "size=1B"], ["inspect model.onnx"]),
    (["export", "net.py:make", "-o", "net.onnx"], ["inspect net.onnx"]),
    ([*ADAPT, "--budget", "macs=0.9x", "--dry-run"], ["adapt model.onnx --data data.npz", "-o run"]),
    ([*ADAPT, "--budget", "macs=0.7x", "-o", "run0"], ["evaluate model.onnx run0/model.onnx --data data.npz"]),
    (["restore", "counted", "--iteration", "1", "-o", "one.onnx"], ["diff counted/model.onnx one.onnx"]),
    (["report", "counted", "-o", "page.html"], []),
    (["scale", "model.onnx", "--target", "params=2x", "--method", "uniform", "-o", "sizes"], ["model.onnx sizes/"]),
    (
        ["scale", "model.onnx", *DATA, "--target", "params=2x", "--method", "uniform", "--epochs", "1", "-o", "grown"],
        ["evaluate model.onnx grown/", "--data data.npz"],
    ),
    (
        ["profile", "model.onnx", "--table", "here.jsonl", "--max-time", "20s"],
        ["inspect model.onnx --table here.jsonl"],
    ),
    (
        ["profile", "model.onnx", "--table", "two.jsonl", *DATA, "--threads", "2", "--max-time", "20s"],
        ["adapt model.onnx --data data.npz --budget latency=0.7x --table two.jsonl", "--threads 2"],
    ),
    ([*ADAPT, "--budget", "latency=0.8x", "--dry-run"], ["--table model.table.jsonl"]),
    ([*ADAPT, "--budget", "latency=0.8x", "--dry-run", "-o", "planned"], ["-o planned --table planned.table.jsonl"]),
    (["profile", "bundle", "model.onnx", "-o", "device.zip"], ["profile import device/results.jsonl --table"]),
    (
        [*ADAPT, "--budget", "latency=0.8x", "--table", "there.jsonl", "--device", "bundle", "-o", "there"],
        ["profile bundle there/model.onnx --compare model.onnx -o there-compare.zip"],
    ),
    (["inspect", "model.onnx", "--explain", "nothing-like-it"], ["inspect model.onnx"]),
    ([*ADAPT, "--budget", "macs=0.9x", "--freeze", "zzz", "-o", "frozen"], ["inspect model.onnx"]),
]
# What `env` suggests takes minutes, and tests/api/test_demo.py runs it.
ELSEWHERE = {"env", "demo"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A model, samples and a network in PyTorch; a device on a clock of its own measures, and bundles are small."""
    path = tmp_path_factory.mktemp("suggestions")
    (path / "model.onnx").write_bytes(plain((8, 16), size=8, classes=3).SerializeToString())
    rng = np.random.default_rng(0)
    np.savez(path / "data.npz", **{f"x_{s}": rng.standard_normal((16, 3, 8, 8), np.float32) for s in ("train", "val")})
    (path / "net.py").write_text("import torch\ndef make():\n    return torch.nn.Linear(4, 2), torch.zeros(1, 4)\n")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(path)
        for module in (timing, build, opening):
            patch.setattr(module, "LocalDevice", SimulatedDevice)
        patch.setattr(build.TablePlan, "model_count", lambda *_: 16)
        patch.setattr(bundling, "REFERENCE_CAP_S", 0.5)
        patch.setattr(compare, "PLAN", TimingPlan(sessions=3, time_cap_s=0.5))
        yield path


def measured_there(command: list[str]) -> None:
    """Do by hand what a bundle asks for: unpack it beside itself, and run it."""
    bundle = Path(command[command.index("-o") + 1])
    with zipfile.ZipFile(bundle) as packed:
        packed.extractall(bundle.parent)
    run = ["sh", str(bundle.with_suffix("") / "run.sh")]
    subprocess.run(run, env={**os.environ, "PYTHON": sys.executable}, check=True, capture_output=True)


def test_every_command_has_a_case() -> None:
    assert {command[0] for command, _ in COMMANDS} | ELSEWHERE == {*cli.COMMANDS}


@pytest.mark.parametrize(("command", "expected"), COMMANDS, ids=[" ".join(words) for words, _ in COMMANDS])
def test_suggestions_work_as_they_are_printed(
    command: list[str], expected: list[str], folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for file, maker in MADE_BY.items():
        if file in command and command != maker and not Path(file).exists():
            assert cli.run(maker) == 0
    capsys.readouterr()
    code = cli.run(command)
    out, err = capsys.readouterr()
    assert code in (0, 1) or expected, err
    following = suggestions(out + err)
    assert bool(following) == bool(expected), out + err
    for phrase in expected:
        assert any(phrase in " ".join(words) for words in following), following
    while following:
        words = following.pop(0)
        if words[:2] == ["profile", "import"] and not Path(words[2]).exists():
            measured_there(command)
        assert cli.run(words) in (0, 1), (words, capsys.readouterr().err)
        out, err = capsys.readouterr()
        assert "error: " not in err
        # Bundles lead over a device to a last command, which has to work too.
        if words[:2] == ["profile", "bundle"]:
            command, following = words, [*following, *suggestions(out)]


LONG: list[tuple[list[str], str, str, str]] = [
    ([*ADAPT, "--budget", "macs=0.8x", "-o", "stopped"], "adapt.adapt", "stopped/run.json", " --resume"),
    (["finetune", "model.onnx", *DATA, "-o", "late.onnx"], "finetune.finetune", "late.onnx.checkpoint", " --resume"),
    (
        ["scale", "model.onnx", *DATA, "--target", "params=2x", "-o", "sized"],
        "scale.scale",
        "sized/run.json",
        " --resume",
    ),
    (["profile", "model.onnx", "--table", "half-way.jsonl"], "profile.profile", "half-way.jsonl", ""),
]


@pytest.mark.parametrize(("command", "function", "file", "more"), LONG, ids=[words[0] for words, *_ in LONG])
def test_ctrl_c_says_what_is_kept_and_how_to_go_on(
    command: list[str],
    function: str,
    file: str,
    more: str,
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def interrupted(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(f"netadapt_onnx.api.{function}", interrupted)
    assert cli.run(command) == 130
    nothing = capsys.readouterr().err
    assert nothing.startswith("interrupted; ") and not suggestions(nothing)
    Path(file).parent.mkdir(exist_ok=True)
    Path(file).touch()
    assert cli.run(command) == 130
    text = capsys.readouterr().err
    assert str(Path(file).parent if file.endswith("run.json") else file) in text
    assert f"`netadapt-onnx {' '.join(command)}{more}`" in text
