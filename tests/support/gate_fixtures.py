"""What the tests of `gate` and `diff` share: scratch folders, command lines, and one process for all models."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import onnx
import pytest

from models import plain
from netadapt_onnx import cli
from netadapt_onnx.gating import sandbox


class Kept(sandbox.Sandbox):
    """A sandbox that outlives its `with`, so that a test does not pay for starting a process."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        pass


@pytest.fixture(scope="session")
def kept() -> Iterator[Kept]:
    process = Kept()
    yield process
    process._end()


@pytest.fixture
def one_process(kept: Kept, monkeypatch: pytest.MonkeyPatch) -> None:
    """All models of a test are read in one process, which is a real one."""
    for module in ("gate", "diff"):
        monkeypatch.setattr(f"netadapt_onnx.api.{module}.Sandbox", lambda *_: kept)


@pytest.fixture
def workspace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, one_process: None) -> Path:
    """An empty folder that commands run in; no configuration is above it."""
    monkeypatch.chdir(tmp_path)
    for name in ("GITHUB_STEP_SUMMARY", "GITHUB_WORKSPACE", "NO_COLOR"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path


def save(proto: onnx.ModelProto, path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(proto.SerializeToString())
    return path


def small() -> onnx.ModelProto:
    """442,688 macs, 11,274 params."""
    return plain()


def wide() -> onnx.ModelProto:
    """The same with conv2 grown from 24 to 32 channels."""
    return plain((16, 32, 32))


def run(capsys: pytest.CaptureFixture[str], *arguments: object, code: int = 0) -> str:
    """Run a command line; what it prints. An exit code of 2 comes with one line on stderr, any other with none."""
    returned = cli.run([*map(str, arguments)])
    out, err = capsys.readouterr()
    assert returned == code, out + err
    assert err.count("\n") == (code == 2), err
    return out + err


def document(capsys: pytest.CaptureFixture[str], *arguments: object, code: int = 0) -> dict[str, Any]:
    """The same with --json."""
    returned = cli.run([*map(str, arguments), "--json"])
    out, err = capsys.readouterr()
    assert returned == code, out + err
    parsed: dict[str, Any] = json.loads(out)
    assert parsed.pop("schema") == 1
    assert parsed.pop("ok") is (code == 0)
    assert ("error" in parsed) == (code == 2)
    return parsed


def git(folder: Path, *arguments: str) -> str:
    options = ["-c", "user.name=t", "-c", "user.email=t@example.com", "-c", "init.defaultBranch=main"]
    done = subprocess.run(["git", *options, *arguments], cwd=folder, capture_output=True, text=True, check=True)
    return done.stdout.strip()
