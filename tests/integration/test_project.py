"""What holds for the project as a whole: what start-up imports, what is public, what is pinned."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import netadapt_onnx
from models import plain
from netadapt_onnx.cli import COMMANDS

REPOSITORY = Path(__file__).resolve().parents[2]
PACKAGE = REPOSITORY / "netadapt_onnx"


def imported_by(*arguments: str) -> set[str]:
    """Top-level modules that a command line imports, in a fresh interpreter."""
    code = (
        "import sys; from netadapt_onnx.cli import run\n"
        "code = run(sys.argv[1:])\n"
        "print('\\n' + ' '.join({m.split('.')[0] for m in sys.modules}), file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=True)
    return set(done.stderr.splitlines()[-1].split())


def test_help_imports_nothing_heavy() -> None:
    heavy = {"numpy", "onnx", "onnxruntime", "torch", "msgspec", "rich", "tabulate", "sklearn", "scipy"}
    for arguments in ([], ["--help"], ["--version"], *([name, "--help"] for name in COMMANDS)):
        assert not heavy & imported_by(*arguments), arguments


def test_gate_imports_nothing_heavy_itself(tmp_path: Path) -> None:
    """It reads models in a child, which starts at the same time."""
    (tmp_path / "model.onnx").write_bytes(plain().SerializeToString())
    modules = imported_by("gate", str(tmp_path / "model.onnx"), "--max", "size=1GB")
    assert not {"numpy", "onnx", "onnxruntime", "torch", "rich", "sklearn", "scipy"} & modules


def test_telemetry_is_off_before_onnxruntime_is_imported() -> None:
    code = "import netadapt_onnx, os; print(os.environ['ORT_DISABLE_TELEMETRY'])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "1"


def test_public_names_exist() -> None:
    for name in netadapt_onnx.__all__:
        assert getattr(netadapt_onnx, name) is not None
    assert (PACKAGE / "py.typed").exists()
    with pytest.raises(AttributeError):
        netadapt_onnx.no_such_thing  # noqa: B018


def test_every_dependency_is_pinned_exactly() -> None:
    lines = [line for line in (REPOSITORY / "constraints.txt").read_text().splitlines() if not line.startswith("#")]
    assert all(line.count("==") == 1 and "+" not in line for line in lines)
    pinned = {line.split("==")[0].lower().replace("_", "-") for line in lines}
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    requirements = [*project["dependencies"], *(d for name, group in extras.items() if name != "all" for d in group)]
    names = {d.split(">=")[0].split("[")[0].lower().replace("_", "-") for d in requirements}
    assert names <= pinned
    assert set(extras) == {"adapt", "report", "ray", "adb", "tensorboard", "docs", "dev", "all"}


@pytest.mark.parametrize("file", ["Makefile", ".ci/run", ".pre-commit-config.yaml"])
def test_files_that_targets_name_exist(file: str) -> None:
    """What lies under `build` is made by them."""
    text = (REPOSITORY / file).read_text(encoding="utf-8")
    prefixed = [
        f"{prefix}{name}"
        for prefix, names in re.findall(r"\$\(addprefix ([^,]+),((?:[^)\\]|\\\n)*)\)", text)
        for name in names.replace("\\\n", " ").split()
    ]
    places = [*prefixed, *re.findall(r"(?<![\w/])(?:docs|tests|benchmarks)/[\w./-]+", text)]
    assert [place for place in places if not (REPOSITORY / place).exists()] == []
    assert file != "Makefile" or len(places) > 20


LIGHT = """
import sys
from pathlib import Path

for name in ("torch", "onnxscript", "sklearn", "scipy", "threadpoolctl", "loky", "torchmetrics", "PIL", "ray"):
    sys.modules[name] = None  # importing it raises

import numpy as np
import netadapt_onnx as na
from netadapt_onnx.cli import run

folder = Path(sys.argv[1])
x = np.random.default_rng(0).standard_normal((16, 3, 16, 16)).astype(np.float32)
np.savez(folder / "d.npz", x_val=x)
model = folder / "model.onnx"
assert run(["env", "--json"]) == 0
assert run(["inspect", str(model)]) == 0
assert run(["prune", str(model), "--ratio", "0.5", "--verify"]) == 0
np.savez(folder / "t.npz", x_train=x)
by = ["prune", str(model), "--ratio", "0.5", "--data", str(folder / "t.npz"), "--criterion"]
assert run([*by, "activation"]) == 0
assert run([*by, "taylor"]) == 2
na.evaluate(model, folder / "d.npz", time_cap_s=0.2)
na.profile(model, folder / "t.jsonl", models=10, time_cap_s=20, held_out=2)
assert run(["inspect", str(model), "--table", str(folder / "t.jsonl"), "--json"]) == 0
(folder / "f.py").touch()
for command in (["export", f"{folder / 'f.py'}:g", "-o", str(folder / "e.onnx")], ["demo", "-o", str(folder / "demo")]):
    assert run(command) == 2
assert not (folder / "demo").exists()
"""


def test_light_commands_run_without_the_extras(tmp_path: Path) -> None:
    (tmp_path / "model.onnx").write_bytes(plain().SerializeToString())
    done = subprocess.run([sys.executable, "-c", LIGHT, str(tmp_path)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    lines = done.stderr.splitlines()
    assert len(lines) == 3, done.stderr
    assert all("pip install 'netadapt-onnx[adapt]'" in line for line in lines)
