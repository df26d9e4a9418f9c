"""What the documentation says to type is what there is: commands parse, and those that are quick are run."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import numpy as np
import pytest

from models import plain
from netadapt_onnx import cli

REPOSITORY = Path(__file__).resolve().parent.parent
TEXTS = [REPOSITORY / "README.md", *sorted((REPOSITORY / "docs").glob("*.md"))]
QUICK = ("inspect", "prune", "finetune", "export")


def blocks(text: str, language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", text, re.DOTALL)


def commands() -> list[str]:
    lines = [line for path in TEXTS for block in blocks(path.read_text(), "sh") for line in block.splitlines()]
    return [line for line in lines if line.startswith("netadapt-onnx ")]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the README's model.onnx, data.npz and net.py are."""
    (tmp_path / "model.onnx").write_bytes(plain((8, 16), size=8).SerializeToString())
    rng = np.random.default_rng(0)
    arrays = {f"x_{s}": rng.standard_normal((32, 3, 8, 8)).astype(np.float32) for s in ("train", "val", "test")}
    labels = {f"y_{s}": rng.integers(0, 10, 32) for s in ("train", "val", "test")}
    np.savez(tmp_path / "data.npz", **arrays, **labels)
    (tmp_path / "net.py").write_text(
        "import torch\ndef make():\n    return torch.nn.Conv2d(3, 4, 3), torch.zeros(1, 3, 8, 8)\n"
    )
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_there_are_commands_in_the_documentation() -> None:
    assert {line.split()[1] for line in commands()} >= {"inspect", "adapt", "prune", "finetune", "evaluate", "profile"}


@pytest.mark.parametrize("line", commands())
def test_commands_parse(line: str) -> None:
    name, *rest = shlex.split(line)[1:]
    command = cli.group.get_command(cli.group.make_context("netadapt-onnx", ["env"]), name)
    assert command is not None
    command.make_context(name, rest)


def test_the_step_by_step_commands_run_in_order(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    ran = []
    for line in commands():
        arguments = shlex.split(line)[1:]
        if arguments[0] in QUICK:
            assert cli.run(arguments) == 0, capsys.readouterr().err
            ran.append(arguments[0])
    assert set(ran) == set(QUICK)
    assert (folder / "tuned.onnx").exists()


def test_python_blocks_run(folder: Path) -> None:
    ran = 0
    for path in TEXTS:
        for block in blocks(path.read_text(), "python"):
            exec(compile(block, str(path), "exec"), {})
            ran += 1
    assert ran
    assert (folder / "half.onnx").exists()


def test_links_lead_somewhere() -> None:
    for path in TEXTS:
        for target in re.findall(r"\]\(([^)#]+)\)", path.read_text()):
            assert target.startswith("https://") or (path.parent / target).exists(), target


def test_make_targets_of_the_readme_exist() -> None:
    targets = set(re.findall(r"^([a-z]+):", (REPOSITORY / "Makefile").read_text(), re.MULTILINE))
    assert {"install", "demo", "test", "lint", "clean"} <= targets
    assert set(re.findall(r"(?:^|`)make ([a-z]+)", (REPOSITORY / "README.md").read_text(), re.MULTILINE)) <= targets
