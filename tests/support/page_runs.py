"""A page's blocks, run in order in one folder as its reader would, and what they print.

`docs/outputs.py` writes what pages show with it, and `tests/integration/test_readme.py` checks pages with it.
"""

from __future__ import annotations

import doctest
import io
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path

import numpy as np
import yaml

from documentation import OUTPUT, Block, commands
from models import channels_last, plain
from netadapt_onnx import cli
from netadapt_onnx.common import config

PROGRAM = "netadapt-onnx "
_NUMBER = re.compile(r"\d[\d.,]*(?:e[+-]?\d+)?")
_UNIT = re.compile(r"# (?:us|ms|s|min|[kMGT]?B?)(?=\s|[,;:)]|$)")


def supply(folder: Path) -> None:
    """What the pages assume that their reader has: a model, data, a network in PyTorch, another model, a repository."""
    (folder / "model.onnx").write_bytes(plain((8, 16), size=8).SerializeToString())
    shutil.copy(folder / "model.onnx", folder / "before.onnx")
    (folder / "keras.onnx").write_bytes(channels_last(size=8).SerializeToString())
    rng = np.random.default_rng(0)
    arrays = {f"x_{s}": rng.standard_normal((32, 3, 8, 8)).astype(np.float32) for s in ("train", "val", "test")}
    labels = {f"y_{s}": rng.integers(0, 10, 32) for s in ("train", "val", "test")}
    np.savez(folder / "data.npz", **arrays, **labels)
    (folder / "net.py").write_text(
        "import torch\ndef make():\n    return torch.nn.Conv2d(3, 4, 3), torch.zeros(1, 3, 8, 8)\n"
    )
    git = ["git", "-c", "user.name=t", "-c", "user.email=t@example.org", "-c", "commit.gpgsign=false"]
    for words in (["init", "-q", "-b", "main"], ["add", "model.onnx"], ["commit", "-q", "-m", "model"]):
        subprocess.run([*git, *words], cwd=folder, check=True, capture_output=True)


class PageSession:
    """The blocks of one page in the current folder; what Python knows after one block it knows in the next."""

    def __init__(self, page: Path) -> None:
        self._page = page
        self._names: dict[str, object] = {"__name__": "__main__"}

    def run(self, block: Block) -> str:
        """What a block prints on stdout; AssertionError where it fails."""
        if block.mark == "file":
            Path(block.reason).write_text(block.text, encoding="utf-8")
            return ""
        runners = {
            "sh": self._shell,
            "python": self._python,
            "pycon": self._pycon,
            "toml": self._toml,
            "yaml": self._yaml,
        }
        assert block.language in {OUTPUT, *runners}, f"{block.place}: the fence names no language"
        return "" if block.language == OUTPUT else runners[block.language](block)

    def _shell(self, block: Block) -> str:
        printed = []
        for line in commands(block):
            if line.startswith("python "):  # a file that the page shows
                script = subprocess.run(
                    [sys.executable, *line.split()[1:]], capture_output=True, text=True, check=False
                )
                assert script.returncode == 0, f"{block.place}: {line}\n{script.stderr}"
                printed.append(script.stdout)
                continue
            assert line.startswith(PROGRAM), (
                f"{block.place}: '{line}' is not ours: mark the block with <!-- not run: why -->"
            )
            out, err = io.StringIO(), io.StringIO()
            with redirect_stdout(out), redirect_stderr(err):
                code = cli.run(shlex.split(line, comments=True)[1:])
            assert code == 0, f"{block.place}: {line}\n{out.getvalue()}{err.getvalue()}"
            printed.append(out.getvalue())
        return "".join(printed)

    def _python(self, block: Block) -> str:
        out = io.StringIO()
        with redirect_stdout(out):
            exec(compile(block.text, block.place, "exec"), self._names)
        return out.getvalue()

    def _pycon(self, block: Block) -> str:
        """A session with its answers."""
        test = doctest.DocTestParser().get_doctest(block.text, self._names, block.place, str(block.page), 0)
        assert test.examples, f"{block.place}: nothing is typed"
        runner, output = doctest.DocTestRunner(verbose=False), io.StringIO()
        failed = runner.run(test, out=output.write, clear_globs=False).failed
        self._names.update(test.globs)
        assert not failed, f"{block.place}\n{output.getvalue()}"
        return ""

    def _toml(self, block: Block) -> str:
        content = tomllib.loads(block.text)
        if set(content) == {"groups"}:  # a plan: the commands after it replay it
            Path("plan.toml").write_text(block.text)
            return ""
        inside = "tool" in content
        file = Path("pyproject.toml" if inside else "netadapt.toml")
        file.write_text(block.text)
        for section in config.SECTIONS:
            config.read(file, section, object)
        file.unlink()
        return ""

    def _yaml(self, block: Block) -> str:
        assert yaml.safe_load(block.text)
        return ""


def form(text: str) -> list[str]:
    """The words and the layout of an output, without its numbers, units, and the width of its columns.

    Which groups a search chose, and in how many iterations, is a result like a number: rows of iterations are left out.
    """
    lines: list[str] = []
    in_iterations = False
    for line in text.strip().splitlines():
        shape = re.sub(r"-{3,}", "---", _UNIT.sub("#", _NUMBER.sub("#", line)))
        shape = re.sub(r"(?:--- ?)+", "---", " ".join(shape.split()))
        in_iterations = bool(shape) and (in_iterations or shape.startswith("iteration "))
        is_row = in_iterations and not shape.startswith(("iteration ", "---", "*"))
        if not is_row:
            lines.append(shape)
    return lines
