"""Steps of GitHub's workflows run here as its runner does it, with a stand-in for what installs packages."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest
import yaml

from documentation import REPOSITORY


def fill(template: str, values: Mapping[str, str]) -> str:
    """`${{ inputs.x }}` as the runner fills it in."""
    return re.sub(r"\$\{\{\s*([\w.-]+)\s*\}\}", lambda expression: values[expression[1]], template)


def shell(script: str, folder: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """A step's script, in the shell and with the options that the runner uses."""
    command = ["bash", "--noprofile", "--norc", "-eo", "pipefail", "-c", script]
    inherited = {"PATH": os.environ["PATH"], "HOME": str(folder), "PYTHONPATH": str(REPOSITORY)}
    return subprocess.run(command, cwd=folder, env=inherited | environment, capture_output=True, text=True, check=False)


@pytest.fixture
def shims(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A `python3` whose virtual environments hold this Python, and whose pip writes down what it was asked for."""
    folder = tmp_path_factory.mktemp("shims")
    real = shlex.quote(sys.executable)
    (folder / "python3").write_text(
        "#!/usr/bin/env bash\n"
        'if [ "$1 $2" != "-m venv" ]; then exec ' + real + ' "$@"; fi\n'
        f'mkdir -p "$3/bin"; cp {folder}/inner "$3/bin/python"\n'
    )
    (folder / "inner").write_text(
        f'#!/usr/bin/env bash\nif [ "$1 $2" = "-m pip" ]; then echo "$@" > {folder}/pip; else exec {real} "$@"; fi\n'
    )
    (folder / "netadapt-onnx").write_text(f'#!/usr/bin/env bash\nexec {real} -P -m netadapt_onnx "$@"\n')
    for file in folder.iterdir():
        file.chmod(0o755)
    return folder


def run_action(workspace: Path, shims: Path, **inputs: str) -> tuple[int, str, str]:
    """Run the steps of `action.yml`; returns exit code, output and step summary."""
    action = yaml.safe_load((REPOSITORY / "action.yml").read_text())
    defaults = {name: spec["default"] for name, spec in action["inputs"].items()}
    assert set(inputs) <= set(defaults)
    values = {f"inputs.{name}": value for name, value in (defaults | inputs).items()}
    values["github.action_path"] = str(REPOSITORY)
    summary = workspace / "summary.md"
    for step in action["runs"]["steps"]:
        environment = {name: fill(value, values) for name, value in step.get("env", {}).items()}
        environment |= {"RUNNER_TEMP": str(shims / "temp"), "GITHUB_STEP_SUMMARY": str(summary)}
        environment["PATH"] = f"{shims}:{os.environ['PATH']}"
        folder = workspace / fill(step.get("working-directory", "."), values)
        done = shell(step["run"], folder, **environment)
        if done.returncode:
            break
    return done.returncode, done.stdout + done.stderr, summary.read_text() if summary.exists() else ""
