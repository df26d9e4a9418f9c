"""Which files `gate` opens for models with external data in every place: as Python saw it, and as the system did."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from external_places import CONFIG, PLACES, SECRET, VALUES, naming
from netadapt_onnx import cli


@dataclass(frozen=True)
class Watched:
    """What `gate` printed, and the files of the folder that it opened, as Python and as the system saw it."""

    text: str
    by_python: set[str]
    by_system: set[str] | None


WATCH = """
import os, sys
log = os.open(os.environ["OPENED"], os.O_WRONLY | os.O_APPEND)
def hook(event, arguments):
    if event == "open" and isinstance(arguments[0], (str, bytes)):
        os.write(log, os.fsencode(arguments[0]) + b"\\n")
sys.addaudithook(hook)
"""


@pytest.fixture(scope="module")
def gated(tmp_path_factory: pytest.TempPathFactory) -> Watched:
    """`gate` of models with external data in every place, some of which it may open, and some not."""
    root = tmp_path_factory.mktemp("gated")
    work, log, trace = root / "work", root / "opened", root / "trace"
    (work / ".git").mkdir(parents=True)
    (work / CONFIG).write_bytes(SECRET)
    (root / "secret").write_bytes(SECRET)
    (work / "link").symlink_to(root / "secret")
    for number, place in enumerate(PLACES):
        (work / f"w{number}.bin").write_bytes(VALUES.tobytes())
        (work / f"right{number}.onnx").write_bytes(naming(place, f"w{number}.bin").SerializeToString())
        for name, location in {"hidden": CONFIG, "link": "link", "above": "../secret"}.items():
            (work / f"{name}{number}.onnx").write_bytes(naming(place, location).SerializeToString())
    (root / "sitecustomize.py").write_text(WATCH)
    log.touch()
    command = [sys.executable, "-m", "netadapt_onnx", "gate", "--max", "size=1MB", "--timeout", "300s"]
    command += sorted(file.name for file in work.glob("*.onnx"))
    if _traces(root):
        command = ["strace", "-f", "-qq", "-y", "-e", "trace=open,openat,openat2", "-o", str(trace), *command]
    paths = os.pathsep.join([str(root), os.environ.get("PYTHONPATH", ""), str(Path(cli.__file__).parents[1])])
    environment = os.environ | {"PYTHONPATH": paths, "OPENED": str(log)}
    done = subprocess.run(command, cwd=work, env=environment, capture_output=True, check=False)
    assert done.returncode == 2, done.stderr.decode()
    names = {file.name for file in work.iterdir() if file.is_file()} | {"config", "secret", "link"}
    by_python = {Path(line).name for line in log.read_text().splitlines()} & names
    by_system = None
    if trace.exists():
        calls = re.findall(r'open(?:at2?)?\([^"]*"([^"]+)"', trace.read_text())
        by_system = {Path(name).name for name in calls} & names
    return Watched((done.stdout + done.stderr).decode(), by_python, by_system)


def _traces(folder: Path) -> bool:
    """Whether there is a strace, and it may trace here."""
    if shutil.which("strace") is None:
        return False
    done = subprocess.run(["strace", "-f", "-o", str(folder / "try"), "true"], capture_output=True, check=False)
    return done.returncode == 0


ALLOWED = {name for number in range(len(PLACES)) for name in (f"w{number}.bin", f"right{number}.onnx")}
MODELS = {f"{name}{number}.onnx" for number in range(len(PLACES)) for name in ("hidden", "link", "above")}


def test_gate_opens_models_and_what_they_may_name(gated: Watched) -> None:
    assert gated.by_python == ALLOWED | MODELS
    for number in range(len(PLACES)):
        assert (
            f"hidden{number}.onnx: tensor 'stray' keeps its data in a hidden file or folder (.git/config)" in gated.text
        )
    assert "ghp_" not in gated.text


def test_libraries_open_nothing_else_either(gated: Watched) -> None:
    if gated.by_system is None:
        pytest.skip("no strace, or it may not trace here: what native code opens was not seen")
    assert gated.by_system == ALLOWED | MODELS
